"""Wherever rows lie, what is not changed comes back as it was, and the same rows give the same bytes."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given

from relabel.errors import InputError
from relabel.formats import open_source
from relabel.formats.huggingface import HuggingFaceHub
from relabel.formats.parquet import BATCH
from relabel.records import Instance, Passage
from tests.conftest import tevatron
from tests.formats.shared import compose, composed, instances, line, lines, on_disk, rewritten, sides, write

Records = list[dict[str, Any]]
datasets.disable_progress_bars()


def plain(path: Path, records: Records) -> None:
    write(path, *map(line, records))


def gz(path: Path, records: Records) -> None:
    path.write_bytes(gzip.compress(b"".join(map(line, records))))


def zst(path: Path, records: Records) -> None:
    path.write_bytes(b"".join(zstandard.compress(line(record)) for record in records))


def parquet(path: Path, records: Records) -> None:
    pq.write_table(pa.Table.from_pylist(records), path)


def hf(path: Path, records: Records) -> None:
    datasets.Dataset.from_list(records).save_to_disk(str(path))


STORES = {".jsonl": plain, ".jsonl.gz": gz, ".jsonl.zst": zst, ".parquet": parquet, ".hf": hf}
Store = Callable[[Path, Records], None]


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> Store:
    return STORES[request.param]


def content(path: Path) -> dict[str, bytes]:
    """Each file's bytes."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {str(file.relative_to(path)): file.read_bytes() for file in files if file.is_file()}


def record(number: int) -> dict[str, Any]:
    extra = {
        "note": 'é "said": 漢字 🙂 C:\\users',
        "nested": {"a": [1, None], "b": "x"},
        "nothing": None,
        "score": 0.1,
        "yes": True,
    }
    return tevatron(number, subset="nq") | extra


def rows(path: Path) -> Records:
    """All records, read without a format."""
    source = open_source(str(path))
    return [found.record for found in source._store.rows()]  # type: ignore[attr-defined]


@pytest.mark.parametrize("suffix", STORES)
def test_is_recognised_by_its_content_and_not_by_its_name(tmp_path: Path, suffix: str) -> None:
    STORES[suffix](tmp_path / "set.txt", [record(1)])
    source = open_source(str(tmp_path / "set.txt"))
    assert (source.format_name, source.suffix) == ("tevatron", suffix)
    assert [found.query_id for found in instances(source)] == ["q1"]


def test_rows_come_back_with_all_their_columns(tmp_path: Path, store: Store) -> None:
    before = [record(number) for number in range(1, 4)]
    store(tmp_path / "set", before)
    rewritten(tmp_path / "set", tmp_path / "out", "relabel", "drop")
    after = rows(tmp_path / "out")
    assert after[1:] == rows(tmp_path / "set")[1:] == before[1:]
    changed = record(1)
    moved, _, *changed["negative_passages"] = changed["negative_passages"]
    changed["positive_passages"].append(moved)
    assert list(after[0].items()) == list(changed.items())


def test_the_same_rows_give_the_same_bytes(tmp_path: Path, store: Store) -> None:
    store(tmp_path / "set", [record(number) for number in range(1, 4)])
    for name in ("one", "two"):
        rewritten(tmp_path / "set", tmp_path / name, "relabel")
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "set", "two"]


def test_a_set_of_which_nothing_is_left_can_be_written(tmp_path: Path, store: Store) -> None:
    store(tmp_path / "set", [record(1)])
    open_source(str(tmp_path / "set")).sink(tmp_path / "out").close()
    assert (tmp_path / "out").exists()


def test_more_rows_than_a_batch_keep_their_order(tmp_path: Path, store: Store) -> None:
    store(tmp_path / "set", [tevatron(number, negatives=1) for number in range(2 * BATCH + 1)])
    found = instances(rewritten(tmp_path / "set", tmp_path / "out", "relabel"))
    assert [instance.query_id for instance in found] == [f"q{number}" for number in range(2 * BATCH + 1)]
    assert [instance.line for instance in found] == list(range(1, 2 * BATCH + 2))


def test_identity_is_that_of_the_content(tmp_path: Path, store: Store) -> None:
    for name, number in (("one", 1), ("two", 1), ("other", 2)):
        store(tmp_path / name, [record(number)])
    one, two, other = (open_source(str(tmp_path / name)).identity() for name in ("one", "two", "other"))
    assert one == two != other
    assert one[0] > 0


def test_fraction_goes_from_nothing_to_all(tmp_path: Path, store: Store) -> None:
    store(tmp_path / "set", [record(number) for number in range(1, 5)])
    source = open_source(str(tmp_path / "set"), format="tevatron")
    assert source.fraction() == 0
    assert list(source)
    assert source.fraction() == 1


STYLES: dict[str, tuple[dict[str, Any], str]] = {
    "spaces": ({}, "\n"),
    "compact": ({"separators": (",", ":"), "ensure_ascii": False}, "\n"),
    "compact and escaped": ({"separators": (",", ":")}, "\n"),
    "wide": ({"separators": (" , ", " : "), "ensure_ascii": False}, "\r\n"),
    "no last newline": ({}, ""),
}


def styled(style: str, found: dict[str, Any]) -> bytes:
    options, end = STYLES[style]
    return (json.dumps(found, **options) + end).encode()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_an_unchanged_line_is_written_back_byte_for_byte(tmp_path: Path, style: str, mark: bytes) -> None:
    odd = (
        b' {"\\u0071uery_id" : "q2" ,\t"query":"\\/ \\uD83D\\uDE00", "positive_passages": [ {"docid":1, "text": "p"}],'
    )
    odd += b' "negative_passages":[], "n": 1.10, "e": 1E5, "n": 100000000000000000000000000000} \r\n'
    path = write(tmp_path / "set", mark, odd, styled(style, record(1)))
    rewritten(path, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("style", STYLES)
def test_a_changed_line_keeps_its_style(tmp_path: Path, style: str) -> None:
    found = record(1)
    rewritten(write(tmp_path / "set", styled(style, found)), tmp_path / "out", "drop")
    found["negative_passages"] = found["negative_passages"][1:]
    assert (tmp_path / "out").read_bytes() == styled(style, found)


def test_a_text_from_another_line_is_escaped_as_its_new_neighbours_are(tmp_path: Path) -> None:
    records = [{"anchor": "q", "positive": "p", "negative": text} for text in ("é", "a", "b")]
    path = write(tmp_path / "set", *[json.dumps(found).encode() + b"\n" for found in records])
    rewritten(path, tmp_path / "out", "keep", "relabel", "drop")
    assert (tmp_path / "out").read_bytes().isascii()
    assert lines(tmp_path / "out")[1] == {"anchor": "q", "positive": "a", "negative": "é"}


def test_a_line_is_ended_before_another_follows(tmp_path: Path) -> None:
    path = write(tmp_path / "set", line({"anchor": "q", "positive": "p", "negative_1": "a", "negative_2": "b"})[:-1])
    rewritten(path, tmp_path / "out", "relabel")
    assert len(lines(tmp_path / "out")) == 2


def test_a_saved_dataset_of_several_splits_is_read_by_split(tmp_path: Path) -> None:
    splits = {name: datasets.Dataset.from_list([record(number)]) for number, name in enumerate(("dev", "train"))}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "both"))
    datasets.DatasetDict({"dev": splits["dev"]}).save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"a": splits["dev"], "b": splits["dev"]}).save_to_disk(str(tmp_path / "unclear"))
    assert instances(open_source(str(tmp_path / "both")))[0].query_id == "q1"
    assert instances(open_source(str(tmp_path / "both"), split="dev"))[0].query_id == "q0"
    assert instances(open_source(str(tmp_path / "one")))[0].query_id == "q0"
    with pytest.raises(InputError, match=r"holds the splits a, b; say which one with input\.split"):
        open_source(str(tmp_path / "unclear"))
    with pytest.raises(InputError, match="found 'test'"):
        open_source(str(tmp_path / "both"), split="test")


def test_a_dataset_of_the_hub_is_streamed_and_written_as_parquet(tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    for number in range(2):
        parquet(tmp_path / "hub" / f"train-{number}.parquet", [record(number)])
    hub = HuggingFaceHub(str(tmp_path / "hub"), None, "train", None)
    found = list(hub.rows())
    assert [(row.number, row.record) for row in found] == [(1, record(0)), (2, record(1))]
    assert hub.identity() == HuggingFaceHub(str(tmp_path / "hub"), None, "train", None).identity()
    sink = hub.sink(tmp_path / "out.parquet", ("positive", "negative"))
    for row in found:
        sink.write(row)
    sink.close()
    assert rows(tmp_path / "out.parquet") == [record(0), record(1)]


def test_a_dataset_that_the_hub_does_not_give_is_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"no-one/nothing@v1: neither a file here nor a dataset .* Check input\.path"):
        open_source("no-one/nothing", revision="v1")


@pytest.mark.parametrize("kind", [parquet, hf])
def test_columns_make_room_for_what_a_relabelled_passage_brings_along(tmp_path: Path, kind: Store) -> None:
    found = tevatron(1)
    for passage in found["negative_passages"]:
        passage["score"] = 0.5
    kind(tmp_path / "set", [found])
    rewritten(tmp_path / "set", tmp_path / "out", "relabel")
    assert rows(tmp_path / "out")[0]["positive_passages"] == [
        {**found["positive_passages"][0], "score": None},
        found["negative_passages"][0],
    ]


@pytest.mark.parametrize("kind", [parquet, hf])
def test_scores_of_another_number_type_move_without_loss(tmp_path: Path, kind: Store) -> None:
    kind(tmp_path / "set", [{"query": "q", "pos": ["p"], "neg": ["n"], "pos_scores": [1], "neg_scores": [0.5]}])
    rewritten(tmp_path / "set", tmp_path / "out", "relabel")
    assert rows(tmp_path / "out")[0]["pos_scores"] == [1, 0.5]


def test_parallel_columns_of_unlike_types_are_an_input_error(tmp_path: Path) -> None:
    parquet(tmp_path / "set", [{"query": "q", "pos": ["p"], "neg": ["n"], "pos_id": ["a"], "neg_id": [1]}])
    with pytest.raises(InputError, match=r"pos_id holds list<.*string>, but neg_id holds list<.*int64>"):
        open_source(str(tmp_path / "set")).sink(tmp_path / "out")


def test_a_whole_number_of_64_bits_without_a_sign_comes_back(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([record(1)]).append_column("hash", pa.array([2**64 - 1], pa.uint64()))
    datasets.Dataset(table).save_to_disk(str(tmp_path / "set"))
    rewritten(tmp_path / "set", tmp_path / "out", "drop")
    assert rows(tmp_path / "out")[0]["hash"] == 2**64 - 1


@pytest.mark.parametrize("kind", [parquet, hf])
def test_a_set_of_which_nothing_is_left_can_be_opened(tmp_path: Path, kind: Store) -> None:
    kind(tmp_path / "set", [record(1)])
    open_source(str(tmp_path / "set")).sink(tmp_path / "out").close()
    assert instances(open_source(str(tmp_path / "out"), format="tevatron")) == []


def test_what_only_parquet_knows_becomes_text_in_json_lines(tmp_path: Path) -> None:
    parquet(tmp_path / "set", [record(1) | {"when": date(2024, 2, 29), "price": Decimal("1.50")}])
    rewritten(tmp_path / "set", tmp_path / "out.jsonl")
    assert lines(tmp_path / "out.jsonl") == [record(1) | {"when": "2024-02-29", "price": "1.50"}]


def test_parquet_keeps_its_schema(tmp_path: Path) -> None:
    columns = {
        "small": pa.array([7], pa.int8()),
        "when": pa.array([1], pa.timestamp("us", "UTC")),
        "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int32())),
        "kind": pa.array(["a"]).dictionary_encode(),
        "raw": pa.array([b"\xff"]),
    }
    table = pa.Table.from_pylist([record(1)])
    for name, column in columns.items():
        table = table.append_column(name, column)
    pq.write_table(table.replace_schema_metadata({"huggingface": "{}", "own": "x"}), tmp_path / "set")
    rewritten(tmp_path / "set", tmp_path / "out", "drop")
    before, after = pq.read_table(tmp_path / "set"), pq.read_table(tmp_path / "out")
    assert after.schema.equals(before.schema, check_metadata=True)
    assert after.drop_columns("negative_passages").equals(before.drop_columns("negative_passages"))


def test_columns_that_only_late_rows_have_are_not_lost(tmp_path: Path) -> None:
    made = [Instance(n, f"q{n}", f"query {n}", _passages("p"), _passages("n")) for n in range(BATCH)]
    late = Instance(BATCH + 1, "late", "late", _passages("p"), _passages("abc"), "nq")
    for name in ("tevatron", "sentence-transformers:n-tuple"):
        path = compose(tmp_path / f"{name[:3]}.parquet", name, [*made, late])
        found = instances(open_source(str(path)))
        assert [sides(instance) for instance in found] == [sides(instance) for instance in [*made, late]]
        assert (found[0].subset, found[-1].subset) == ("", "nq")


def _passages(texts: str) -> tuple[Passage, ...]:
    return tuple(Passage(f"d-{text}", "", text) for text in texts)


@on_disk
@given(composed(1))
def test_every_format_holds_the_same_instances(made: list[Instance]) -> None:
    names = ("tevatron", "flagembedding", *(f"sentence-transformers:{name}" for name in ("triplet", "labeled-list")))
    with tempfile.TemporaryDirectory() as folder:
        for suffix in (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"):
            for name in names:
                path = compose(Path(folder) / f"set{suffix}", name, made)
                found = instances(open_source(str(path), format=name))
                assert [sides(instance) for instance in found] == [sides(instance) for instance in made]
