"""Bad input: each faulty record is refused alone with its line and a reason, or the source as a whole with advice."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from relabel.derived import quarantine_line
from relabel.errors import InputError
from relabel.formats import FORMATS, open_source
from relabel.formats.sentence_transformers import LAYOUTS
from relabel.records import Instance, Quarantined
from tests.conftest import tevatron
from tests.formats.shared import line, on_disk, rewritten, sides, write
from tests.formats.test_storage import hf, parquet

NAMES = [*FORMATS[:2], *(f"sentence-transformers:{layout}" for layout in LAYOUTS)]
NESTED = b"[" * 300 + b"]" * 300
MEGABYTE = "a passage " * 100_000


def passage(**fields: Any) -> dict[str, Any]:
    """A Tevatron record with these fields in its second negative; Ellipsis takes one out."""
    record = tevatron(2)
    changed = {**record["negative_passages"][1], **fields}
    record["negative_passages"][1] = {name: value for name, value in changed.items() if value is not ...}
    return record


def without(name: str) -> dict[str, Any]:
    return {column: value for column, value in tevatron(2).items() if column != name}


def positive(**fields: Any) -> dict[str, Any]:
    record = tevatron(2)
    record["positive_passages"][0] |= fields
    return record


FLAG: dict[str, Any] = {"query": "q", "pos": ["p"], "neg": ["n"]}
TRIPLET: dict[str, Any] = {"anchor": "q", "positive": "p", "negative": "n"}
PAIR: dict[str, Any] = {"anchor": "other", "passage": "p", "label": 1}
LIST: dict[str, Any] = {"anchor": "other", "passages": ["p", "n"], "labels": [1, 0]}

RECORDS: list[tuple[dict[str, Any], list[tuple[Any, str]]]] = [
    (
        tevatron(1),
        [
            (without("query_id"), "query_id is missing"),
            (tevatron(2, query_id=None), "query_id is null, expected a string or a whole number"),
            (tevatron(2, query_id=""), "query_id is an empty string, expected"),
            (tevatron(2, query_id=1.5), "query_id is the number 1.5, expected"),
            (tevatron(2, query_id=2**64), "query_id is the number 1.8446744073709552e+19, expected"),
            (without("query"), "query is missing"),
            (tevatron(2, query=""), "query is an empty string, expected a text"),
            (tevatron(2, query=" \t\n"), "query is an empty string, expected a text"),
            (tevatron(2, query=["q"]), "query is a list, expected a text"),
            (without("negative_passages"), "negative_passages is missing"),
            (tevatron(2, negative_passages="n"), "negative_passages is a string, expected a list"),
            (tevatron(2, positive_passages={}), "positive_passages is an object, expected a list"),
            (tevatron(2, positive_passages=["p"]), "positive_passages[0] is a string, expected an object with docid"),
            (tevatron(2, positive_passages=[]), "no positive passage"),
            (positive(text=" "), "positive 1 has no text"),
            (passage(docid=...), "negative_passages[1].docid is missing"),
            (passage(docid=None), "negative_passages[1].docid is null, expected a string"),
            (passage(docid=True), "negative_passages[1].docid is a boolean, expected"),
            (passage(text=...), "negative_passages[1].text is missing, expected a string"),
            (passage(text=None), "negative_passages[1].text is null, expected a string"),
            (passage(text=7), "negative_passages[1].text is a number, expected a string"),
            (passage(title=7), "negative_passages[1].title is a number, expected a string"),
            (passage(score="high"), "negative_passages[1].score is a string, expected a number"),
            (tevatron(2, subset=3), "subset is a number, expected a string"),
            (tevatron(2, query=[], nan=float("nan"), big=10**400), "query is a list, expected a text"),
        ],
    ),
    (
        FLAG,
        [
            ({**FLAG, "query": None}, "query is null, expected a text"),
            ({**FLAG, "pos": "text"}, "pos is a string, expected a list"),
            ({**FLAG, "neg": None}, "neg is null, expected a list"),
            ({"query": "q", "pos": ["p"]}, "neg is missing"),
            ({**FLAG, "neg": ["n", {"text": "m"}]}, "neg[1] is an object, expected a string"),
            ({**FLAG, "pos": []}, "no positive passage"),
            ({**FLAG, "pos": ["p", ""]}, "positive 2 has no text"),
            ({**FLAG, "neg_scores": [1, 2]}, "neg_scores has 2 values, expected 1, one for each of neg"),
            ({**FLAG, "pos_scores": 1}, "pos_scores has a number, expected 1, one for each of pos"),
            ({**FLAG, "pos_scores": ["1"]}, "pos_scores is a string, expected a number"),
        ],
    ),
    (
        TRIPLET,
        [
            ({"anchor": "q", "positive": "p"}, "negative is missing"),
            ({**TRIPLET, "anchor": " "}, "anchor is an empty string, expected a text"),
            ({**TRIPLET, "positive": ["p"]}, "positive is a list, expected a string"),
            ({**TRIPLET, "negative": None}, "negative is null, expected a string"),
            ({**TRIPLET, "anchor": "other", "positive": ""}, "positive 1 has no text"),
            ({"anchor": "q", "positive": "p", "negative_1": None}, "negative is missing"),
            ({"anchor": "q", "positive": "p", "negative_" + "9" * 5000: "n"}, "negative is missing"),
            ({"anchor": "q"}, "columns are anchor, expected an anchor and a positive"),
            ({}, "columns are none, expected an anchor and a positive"),
        ],
    ),
    (
        {**PAIR, "anchor": "q"},
        [
            ({**PAIR, "label": 0.5}, "label is 0.5, expected 0 or 1"),
            ({**PAIR, "label": 2}, "label is 2, expected 0 or 1"),
            ({**PAIR, "label": "1"}, "label is a string, expected 0 or 1"),
            ({"anchor": "other", "passage": "p"}, "label is missing"),
            ({**PAIR, "passage": None}, "passage is null, expected a string"),
            ({**PAIR, "label": 0}, "no positive passage"),
        ],
    ),
    (
        {**LIST, "anchor": "q"},
        [
            ({**LIST, "labels": [1]}, "labels has 1 values, expected 2, one for each of passages"),
            ({**LIST, "labels": 1}, "labels is a number, expected a list"),
            ({**LIST, "labels": [1, 0.5]}, "labels[1] is 0.5, expected 0 or 1"),
            ({**LIST, "passages": "pn"}, "passages is a string, expected a list"),
            ({**LIST, "passages": ["p", None]}, "passages[1] is null, expected a string"),
            ({**LIST, "labels": [0, 0]}, "no positive passage"),
        ],
    ),
]


@pytest.mark.parametrize(
    ("good", "bad", "reason"), [(good, bad, reason) for good, table in RECORDS for bad, reason in table]
)
def test_a_faulty_record_is_refused_alone(tmp_path: Path, good: Any, bad: Any, reason: str) -> None:
    last = json.loads(json.dumps(good).replace('"q"', '"r"'))
    check_refused(tmp_path, line(good), line(bad), line(last), reason)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"{broken\n", "not JSON: unexpected"),
        (b'{"query": "cut o\n', "not JSON: unexpected"),
        (b"plain words\n", "not JSON: unexpected character"),
        (b"query,pos,neg\n", "not JSON: "),
        (b"{'query': 'q'}\n", "not JSON: "),
        (line(tevatron(2))[:-1] + b" {}\n", "not JSON: "),
        (b"\xef\xbb\xbf" + line(tevatron(2)), "not JSON: "),
        (b"\0\0\n", "not JSON: "),
        (b"[]\n", "a list, expected a JSON object"),
        (b'"text"\n', "a string, expected a JSON object"),
        (b"null\n", "null, expected a JSON object"),
        (b"NaN\n", "a number, expected a JSON object"),
        ('{"query": "café"}\n'.encode("latin-1"), "not UTF-8: byte 0xe9 at column 15"),
        (b'{"query": "\\ud83d"}\n', "not text: half of a surrogate pair stands alone"),
        (b'{"x": ' + NESTED + b"}\n", "nested deeper than 254 levels"),
        (b'{"x": NaN, "y": ' + NESTED + b"}\n", "nested deeper than 254 levels"),
        (b"[" * 100_000 + b"\n", "not JSON: "),
        (b'{"x":' * 100_000 + b"\n", "not JSON: "),
        (b'{"x": ' + b"9" * 5000 + b"}\n", "not JSON: number is infinity"),
    ],
)
def test_a_line_that_cannot_be_read_is_refused_alone(tmp_path: Path, bad: bytes, reason: str) -> None:
    check_refused(tmp_path, line(tevatron(1)), bad, line(tevatron(3)), reason)


def check_refused(folder: Path, first: bytes, bad: bytes, last: bytes, reason: str) -> None:
    path = write(folder / "set", first, b"\n", bad, last)
    found = sorted(open_source(str(path)), key=lambda record: record.line)
    assert [record.line for record in found] == [1, 3, 4]
    assert [type(record) for record in found] == [Instance, Quarantined, Instance]
    assert isinstance(found[1], Quarantined)
    assert found[1].reason.startswith(reason)
    assert json.loads(quarantine_line(found[1]))["reason"] == found[1].reason


@pytest.mark.parametrize(
    "record",
    [
        tevatron(1, negatives=0),
        passage(docid=7, text="", title=None),
        passage(text=MEGABYTE, score=float("nan")),
        tevatron(1, query_id=2**64 - 1, subset=None),
        tevatron(1, deep=json.loads("[" * 200 + "]" * 200)),
        {**FLAG, "neg": []},
        {**FLAG, "neg": ["p", "n", "n", ""], "neg_scores": [float("inf"), -1, None, 0]},
        {**TRIPLET, "negative": "p"},
        {**LIST, "passages": ["p"], "labels": [True]},
    ],
    ids=lambda record: str(record)[:60],
)
def test_what_is_odd_but_usable_is_accepted_and_comes_back(tmp_path: Path, record: dict[str, Any]) -> None:
    path = write(tmp_path / "set", line(record))
    (found,) = rewritten(path, tmp_path / "out")
    assert isinstance(found, Instance)
    assert (tmp_path / "out").read_bytes() == path.read_bytes()


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def spoilt(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(255 - byte for byte in content[middle : middle + 40]) + content[middle + 40 :]


MANY = b"".join(line(tevatron(number, note=sha256(bytes([number % 256])).hexdigest())) for number in range(300))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty, expected records"),
        (b"\n\n  \n", "found no records in it"),
        (gzip.compress(b""), "found no records in it"),
        (zstandard.compress(b""), "found no records in it"),
        (cut(gzip.compress(MANY)), "damaged after line [1-9].*Check the file, or copy it anew"),
        (cut(zstandard.compress(MANY)), r"damaged after line \d+.*Check the file, or copy it anew"),
        (spoilt(gzip.compress(MANY)), "damaged after line .*Check the file, or copy it anew"),
        (gzip.compress(MANY) + b"more", "damaged after line 300"),
        (b"\x1f\x8b and more", "damaged after line 0"),
        (b"\x28\xb5\x2f\xfd and more", "damaged after line 0"),
        (b"PAR1 and more", "damaged, expected Parquet"),
        (b"PAR1", "damaged, expected Parquet"),
        (MANY.decode().encode("utf-16"), "UTF-16, expected UTF-8. Try: iconv"),
        (gzip.compress(MANY.decode().encode("utf-16")), "UTF-16, expected UTF-8. Try: iconv"),
        (MANY.decode().encode("utf-16-le"), "found line 1 is not JSON"),
        (json.dumps([tevatron(1)]).encode(), "one JSON array, expected JSON Lines. Try: jq"),
        (json.dumps([tevatron(1)], indent=1).encode(), "one JSON array, expected JSON Lines. Try: jq"),
        (gzip.compress(b" \n[\n" + line(tevatron(1)) + b"]"), "one JSON array, expected JSON Lines. Try: jq"),
        (json.dumps(tevatron(1), indent=1).encode(), "found line 1 is not JSON"),
        (b"query,positive,negative\nq,p,n\n", "found line 1 is not JSON"),
        (b"PK\x03\x04...", "a zip archive, expected plain text, .gz or .zst; unpack it first"),
        (b"BZh91AY", "bzip2, expected plain text, .gz or .zst; unpack it first"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_input_error(tmp_path: Path, content: bytes, message: str) -> None:
    path = write(tmp_path / "set", content)
    with pytest.raises(InputError, match=f"^{path}: {message}"):
        list(open_source(str(path)))


def no_file(path: Path) -> None:
    pass


def folder(path: Path) -> None:
    path.mkdir()
    write(path / "train.jsonl", line(tevatron(1)))


def damaged_dataset(path: Path) -> None:
    hf(path, [tevatron(1)])
    next(path.glob("*.arrow")).unlink()


def damaged_parquet(path: Path) -> None:
    parquet(path, [tevatron(number) for number in range(500)])
    content = path.read_bytes()
    path.write_bytes(content[:200] + bytes(2000) + content[2200:])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (no_file, "No such file or directory. Check input.path"),
        (folder, "a folder that is neither a dataset saved by Hugging Face nor a BEIR set .* name a file in it"),
        (damaged_dataset, "a saved dataset that cannot be loaded: "),
        (damaged_parquet, "damaged, expected Parquet: "),
    ],
)
def test_a_path_that_cannot_be_read_is_an_input_error(
    tmp_path: Path, make: Callable[[Path], None], message: str
) -> None:
    path = tmp_path / "set.jsonl"
    make(path)
    with pytest.raises(InputError, match=f"^{path}: {message}"):
        list(open_source(str(path)))


@pytest.mark.parametrize("path", ["a\0b", "\ud800", "x" * 300, "folder/" + "x" * 300])
@pytest.mark.parametrize("name", ["auto", "tevatron"])
def test_a_name_that_no_file_can_have_is_an_input_error(path: str, name: str) -> None:
    with pytest.raises(InputError, match=r"Check input\.path"):
        open_source(path, format=name)


@pytest.mark.parametrize("kind", [parquet, hf])
def test_a_column_that_python_cannot_hold_is_an_input_error(
    tmp_path: Path, kind: Callable[[Path, list[Any]], None]
) -> None:
    kind(tmp_path / "set", [{**FLAG, "when": day} for day in pa.array([0, 1 << 30], pa.date32())])
    with pytest.raises(InputError, match=r"set: rows 1 to 2: when cannot be read: .* Leave that column out"):
        list(open_source(str(tmp_path / "set")))


def test_values_that_json_does_not_have_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "set"
    parquet(path, [{"query": b"q", "pos": ["p"], "neg": [], "raw": b"\xff"}])
    (found,) = open_source(str(path))
    assert isinstance(found, Quarantined)
    assert found.reason == "query is a bytes, expected a text"
    assert quarantine_line(found)


PIECES = st.sampled_from(
    [
        b"\n",
        b"\r",
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b":",
        b",",
        b"\\u",
        b"\\ud800",
        b"\xef\xbb\xbf",
        b"\xff",
        b"NaN",
        b"1e999",
    ]
) | st.sampled_from([line(record) for good, table in RECORDS for record in (good, *(bad for bad, _ in table))])
FILES = st.binary() | st.lists(PIECES | st.binary(max_size=3), max_size=12).map(b"".join)
DAMAGED = st.builds(
    lambda content, pack, start, end: content[:start] + pack(content)[start:end],
    FILES,
    st.sampled_from([bytes, gzip.compress, zstandard.compress, lambda content: b"PAR1" + content]),
    st.just(0) | st.integers(0, 20),
    st.none() | st.integers(-40, -1),
)


@pytest.mark.parametrize("name", ["auto", *NAMES])
@on_disk
@given(content=FILES | DAMAGED)
def test_no_bytes_make_a_reader_raise_anything_but_an_input_error(name: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as at, suppress(InputError):
        for record in open_source(str(write(Path(at) / "set", content)), format=name):
            if isinstance(record, Quarantined):
                assert record.reason
                assert quarantine_line(record)
            else:
                assert sides(record)[1]


def test_parquet_with_two_columns_of_one_name_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [pa.array(["q"]), pa.array([1]), pa.array([2])]
    pq.write_table(pa.Table.from_arrays(columns, names=["query", "x", "x"]), tmp_path / "two.parquet")
    with pytest.raises(InputError, match="several columns are named x"):
        open_source(str(tmp_path / "two.parquet"))
