"""Whatever a source holds, each of its records is an instance or in quarantine, once and under its own number, and what
is not changed comes back as it was; or the source as a whole is refused.
"""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import assume, given
from hypothesis import strategies as st

from relabel.derived import quarantine_line
from relabel.errors import InputError
from relabel.formats import Source, open_source
from relabel.policy import decide
from relabel.records import Instance, Outcome, Quarantined, Verdict
from tests.conftest import case, tevatron
from tests.formats.shared import ACTIONS, POLICY, acted
from tests.formats.test_storage import STORES
from tests.fuzz.mutations import mutated, quick, spoilt

SOUND: dict[str, list[dict[str, Any]]] = {
    "tevatron": [tevatron(1, negatives=2, subset="nq"), tevatron(2, negatives=1, note={"a": [1, 1.5, None]})],
    "flagembedding": [
        {"query": "q", "pos": ["p"], "neg": ["a", "b"], "pos_scores": [1], "neg_scores": [0.5, 0], "neg_ids": [1, 2]},
        {"query": "r", "pos": ["p", "o"], "neg": ["é"], "prompt": "say"},
    ],
    "sentence-transformers:triplet": [
        *({"anchor": "q", "positive": "p", "negative": text} for text in "ab"),
        {"anchor": "r", "positive": "p", "negative": "a", "subset": "nq"},
    ],
    "sentence-transformers:n-tuple": [
        *({"query": "q", "answer": "p", "negative_1": a, "negative_2": b, "score": [1, 0, 0]} for a, b in ("ab", "bc")),
        {"query": "r", "answer": "p", "negative_1": "a", "negative_2": None},
    ],
    "sentence-transformers:labeled-pair": [
        *({"anchor": "q", "passage": text, "label": label} for text, label in (("p", 1), ("a", 0), ("b", 0.0))),
        {"anchor": "r", "passage": "p", "label": True},
    ],
    "sentence-transformers:labeled-list": [
        {"anchor": "q", "passages": ["p", "a", "b"], "labels": [1, 0, 0], "ids": [1, 2, 3]},
        {"anchor": "r", "passages": ["p", "a"], "labels": [1, 0]},
    ],
}
PACKED: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}
PIECES = [
    b"\n",
    b"\r",
    b"\r\n",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\\ud800",
    b"\\u0000",
    b'"',
    b"{",
    b"]",
    b"NaN",
    b"-0",
]
NAMES = st.sampled_from([*SOUND, "auto"])


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="relabel-fuzz-") as at:
        yield Path(at)


def encoded(record: Any, escaped: bool, twice: bool) -> bytes:
    """A record as a line without its end, `twice` with its first key at the end again."""
    text = json.dumps(record, ensure_ascii=escaped)
    if twice and isinstance(record, dict) and record:
        text = f"{text[:-1]}, {json.dumps(next(iter(record)))}: null}}"
    return text.encode("utf-8", "surrogatepass")


@st.composite
def json_lines(draw: st.DrawFn, name: str) -> bytes:
    """Records of a format, most of them sound, with all sorts of ends and of blank lines between them."""
    sound = draw(st.sampled_from(list(SOUND.values()))) if name == "auto" else SOUND[name]
    records = draw(st.lists(st.sampled_from(sound).flatmap(mutated), max_size=5))
    whole = draw(st.sampled_from([b"", b"", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n", b"\n"]))
    for record in (sound[0], *records):
        ends = st.sampled_from([b"\n", b"\n", b"\r\n", b"\n\n", b" \n \t\r\n", b"\n\x0c\n"])
        whole += encoded(record, draw(st.booleans()), draw(st.integers(0, 9)) == 9) + draw(ends)
    return draw(spoilt(draw(st.sampled_from([whole, whole.rstrip()])), PIECES))


def read(source: Source) -> list[Instance | Quarantined]:
    """All records; each that is refused can be put in quarantine, and each that is not can be judged."""
    found = list(source)
    for record in found:
        if isinstance(record, Quarantined):
            assert record.reason
            kept = json.loads(quarantine_line(record))
            assert (kept["line"], kept["reason"]) == (record.line, record.reason)
        else:
            assert record.query.strip()
            assert record.query_id
            assert all(p.title.strip() or p.text.strip() for p in record.positives)
            assert record.positives
    return found


def numbers(record: Instance | Quarantined) -> list[int]:
    """The numbers of the rows that an instance was made of."""
    if isinstance(record, Quarantined):
        return [record.line]
    origin = record.origin if isinstance(record.origin, tuple) else (record.origin,)
    return [row.number for row in origin]


def assert_accounted(found: Iterable[Instance | Quarantined], expected: list[int]) -> None:
    """Each number stands once; a group of rows without a positive is refused as one, under its first number."""
    told = sorted(number for record in found for number in numbers(record))
    assert len(set(told)) == len(told)
    assert set(told) <= set(expected)
    grouped = sum(
        len(record.record) - 1
        for record in found
        if isinstance(record, Quarantined)
        and isinstance(record.record, list)
        and record.reason.startswith(("no positive", "positive "))
    )
    assert len(told) + grouped == len(expected)


def written(source: Source, to: Path, outcomes: Iterable[Outcome]) -> None:
    sink = source.sink(to)
    for outcome in outcomes:
        sink.write(outcome)
    sink.close()


def decided(data: st.DataObject, found: Iterable[Instance | Quarantined], source: Source) -> list[Outcome]:
    """Each instance with an action drawn for each of its candidates, as the policy has it."""
    outcomes = []
    for record in found:
        if isinstance(record, Instance):
            labels = [data.draw(ACTIONS) if p.text.strip() else "drop" for p in record.negatives]
            verdicts = [(Verdict("tier", "judge", None, label),) for label in labels]
            outcomes.append(decide(POLICY, case(record, verdicts), source.needs_negatives))
    return outcomes


def is_record(number: int, line: bytes) -> bool:
    return bool(line.strip()) and not (number == 1 and line.strip() == b"\xef\xbb\xbf")


@quick
@given(st.data(), NAMES, st.sampled_from([*PACKED]))
def test_every_line_is_told_of_once_and_comes_back_as_it_was(data: st.DataObject, name: str, packing: str) -> None:
    content = data.draw(json_lines(name))
    raw = [line + b"\n" for line in content.split(b"\n")]
    raw[-1] = raw[-1][:-1]
    expected = [number for number, line in enumerate(raw, 1) if is_record(number, line)]
    with folder() as at:
        (at / "set").write_bytes(PACKED[packing](content))
        try:
            source = open_source(str(at / "set"), format=name)
        except InputError:
            return
        found = read(source)
        assert_accounted(found, expected)
        written(source, at / "same", (acted(record) for record in found if isinstance(record, Instance)))
        kept = [raw[number - 1] for record in found if isinstance(record, Instance) for number in numbers(record)]
        assert plain(at / "same", packing) == b"".join(kept)
        outcomes = decided(data, found, source)
        written(source, at / "changed", outcomes)
        if any(outcome.action == "keep" for outcome in outcomes):
            again = read(open_source(str(at / "changed"), format=source_name(source)))
            assert not [record for record in again if isinstance(record, Quarantined)]


def source_name(source: Source) -> str:
    layout = getattr(source._format, "layout", None)  # type: ignore[attr-defined]
    return f"{source.format_name}:{layout}" if layout else source.format_name


def plain(path: Path, packing: str) -> bytes:
    content = path.read_bytes()
    if packing == ".gz":
        return gzip.decompress(content)
    return zstandard.ZstdDecompressor().decompressobj().decompress(content) if packing else content


@quick
@given(st.data(), st.sampled_from([".gz", ".zst"]), st.integers(1, 400))
def test_a_file_that_is_cut_off_never_passes_for_a_whole_one(data: st.DataObject, packing: str, cut: int) -> None:
    lines = [encoded(tevatron(number), True, False) + b"\n" for number in range(data.draw(st.integers(1, 99)))]
    whole = PACKED[packing](b"".join(lines))
    assume(cut <= len(whole) - 4)
    with folder() as at:
        (at / "set").write_bytes(whole[:-cut])
        with pytest.raises(InputError):
            list(open_source(str(at / "set"), format="tevatron"))


COLUMNS: list[pa.Array] = [
    pa.array([1, None], pa.timestamp("ns")),
    pa.array([1 << 61, 0], pa.timestamp("us", "Nowhere/Nothing")),
    pa.array([1 << 61, 0], pa.duration("s")),
    pa.array([1 << 30, 0], pa.date32()),
    pa.array([2**64 - 1, 0], pa.uint64()),
    pa.array([b"\xff", b"\0"]),
    pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int8())),
    pa.array(["a", None]).dictionary_encode(),
    pa.nulls(2),
    pa.array([[1.5], []], pa.large_list(pa.float16())),
    pa.Array.from_buffers(
        pa.string(), 2, [None, pa.array([0, 1, 2], pa.int32()).buffers()[1], pa.py_buffer(b"\xff\xfe")]
    ),
    pa.StructArray.from_arrays([pa.array([1, 2]), pa.array([3, 4])], names=["x", "x"]),
]


@st.composite
def tables(draw: st.DrawFn, name: str) -> pa.Table:
    """Two records of a format as Arrow has them, with one column of another type, or one more."""
    sound = [{**SOUND[name][0], **record} for record in SOUND[name][:2]]
    gap = dict.fromkeys([*sound[1]][1:2])
    table = pa.Table.from_pylist([sound[0], {**sound[1], **draw(st.sampled_from([{}, gap]))}])
    column = draw(st.sampled_from([None, *COLUMNS]))
    if column is None:
        return table
    place = draw(st.integers(0, table.num_columns))
    if place == table.num_columns:
        return table.append_column("more", column)
    return table.set_column(place, table.column_names[place], column)


@quick
@given(st.data(), st.sampled_from([*SOUND]), st.sampled_from(["set.parquet", "set.hf"]))
def test_every_row_of_a_table_is_told_of_once_and_comes_back_as_it_was(
    data: st.DataObject, name: str, place: str
) -> None:
    table = data.draw(tables(name))
    with folder() as at:
        try:
            SAVED[place](table, at / place)
        except (pa.ArrowException, ValueError):
            return
        try:
            source = open_source(str(at / place), format=name)
            found = read(source)
            assert_accounted(found, [1, 2])
            written(source, at / f"same-{place}", (acted(one) for one in found if isinstance(one, Instance)))
            written(source, at / f"changed-{place}", decided(data, found, source))
        except InputError:
            return
        kept = [number for one in found if isinstance(one, Instance) for number in numbers(one)]
        before, after = (rows_of(path) for path in (at / place, at / f"same-{place}"))
        assert after == [before[number - 1] for number in kept]


def rows_of(path: Path) -> list[Any]:
    source = open_source(str(path), format="tevatron")
    return [row.record for row in source._store.rows()]  # type: ignore[attr-defined]


def save(table: pa.Table, path: Path) -> None:
    import datasets

    datasets.Dataset(table).save_to_disk(str(path))


SAVED: dict[str, Callable[[pa.Table, Path], None]] = {"set.parquet": pq.write_table, "set.hf": save}


def stored(kind: str) -> dict[str, bytes]:
    """The files of a sound set, by their names within it."""
    with folder() as at:
        STORES[kind](at / "set", SOUND["tevatron"])
        files = [at / "set"] if (at / "set").is_file() else sorted((at / "set").iterdir())
        return {str(file.relative_to(at)): file.read_bytes() for file in files}


FILES = {kind: stored(kind) for kind in (".parquet", ".hf")}


@quick
@given(st.data(), st.sampled_from([*FILES]))
def test_a_damaged_table_is_refused_or_read(data: st.DataObject, kind: str) -> None:
    spoil = data.draw(st.sampled_from([*FILES[kind]]))
    with folder() as at:
        for name, content in FILES[kind].items():
            (at / name).parent.mkdir(exist_ok=True)
            (at / name).write_bytes(data.draw(spoilt(content)) if name == spoil else content)
        try:
            read(open_source(str(at / "set"), format="tevatron"))
        except InputError:
            return


LINES = {
    "corpus.jsonl": [
        b'{"_id": "d1", "text": "one"}',
        b'{"_id": 2, "title": "t", "text": ""}',
        b'{"_id": "d3", "text": "x"}',
    ],
    "queries.jsonl": [b'{"_id": "q1", "text": "first"}', b'{"_id": "q2", "text": "second"}'],
    "qrels/train.tsv": [
        b"q1\td1\t1",
        b"q1 0 2 1",
        b"q2\td1",
        b"q2\td3\t0",
        b"query-id\tcorpus-id\tscore",
        b"q9\td1\t1",
    ],
    "run.trec": [b"q1 Q0 d3 1 0.5 t", b"q2 Q0 2 1 nan t", b"q2 Q0 d3 2 inf t", b"q1 Q0 d1 1 1e999 t more"],
}


@quick
@given(st.data())
def test_every_query_of_a_beir_set_is_told_of_once_and_its_lines_come_back(data: st.DataObject) -> None:
    files = {}
    for name, lines in LINES.items():
        drawn = data.draw(st.lists(st.sampled_from(lines), max_size=6))
        whole = b"".join(line + data.draw(st.sampled_from([b"\n", b"\r\n"])) for line in (*lines[:2], *drawn))
        files[name] = data.draw(spoilt(whole, [*PIECES, b"\t", b" "]))
    with folder() as at:
        (at / "set" / "qrels").mkdir(parents=True)
        for name, content in files.items():
            (at / "set" / name).write_bytes(content)
        try:
            source = open_source(str(at / "set"))
        except InputError:
            return
        found = read(source)
        made = [record for record in found if isinstance(record, Instance)]
        assert len({record.query_id for record in made}) == len(made)
        written(source, at / "same", map(acted, made))
        told = {one.query_id if isinstance(one, Instance) else one.record["query_id"] for one in found if of_query(one)}
        for name in ("qrels/train.tsv", "run.trec"):
            refused = {
                one.line
                for one in found
                if isinstance(one, Quarantined) and one.reason.startswith(name.removeprefix("qrels/"))
            }
            before = files[name].decode("utf-8-sig", "surrogateescape").split("\n")
            for number, line in enumerate(before, 1):
                fields = line.split("\t") if "\t" in line and name != "run.trec" else line.split()
                header = number == 1 and line.split()[-1:] == ["score"]
                assert not line.strip() or number in refused or fields[0] in told or header
            assert {*(at / "same" / name).read_bytes().decode().split("\n")} <= {*before, ""}
        written(source, at / "changed", decided(data, found, source))
        again = read(open_source(str(at / "changed")))
        assert not [one for one in again if isinstance(one, Quarantined) and not of_corpus(one)]


def of_query(found: Instance | Quarantined) -> bool:
    return isinstance(found, Instance) or (isinstance(found.record, dict) and [*found.record] == ["query_id"])


def of_corpus(fault: Quarantined) -> bool:
    return fault.reason.startswith(("corpus.jsonl", "queries.jsonl"))
