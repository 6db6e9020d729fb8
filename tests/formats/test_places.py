"""Instances can be read again by the lines where they begin, without reading on what lies between."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from relabel.formats import open_sink, open_source
from relabel.formats.sentence_transformers import LAYOUTS
from relabel.records import Decision, Instance, Outcome
from tests.conftest import instance, passage
from tests.formats.test_storage import hf

NAMES = ["tevatron", "flagembedding", *(f"sentence-transformers:{layout}" for layout in LAYOUTS)]


def written(path: Path, format: str) -> Path:
    sink = open_sink(path, format)
    for number in range(40):
        one = instance([passage(f"n{number}"), passage(f"m{number}")], query=f"query {number}?")
        sink.write(Outcome(one, "keep", "keep", (Decision("keep", "", ""),) * 2))
    sink.close()
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"])
@pytest.mark.parametrize("name", NAMES)
def test_those_at_some_lines_are_those_that_a_whole_reading_finds_there(name: str, suffix: str, tmp_path: Path) -> None:
    source = open_source(str(written(tmp_path / f"train{suffix}", name)))
    every = [record for record in source if isinstance(record, Instance)]
    wanted = {every[3].line, every[17].line, every[39].line}
    found = list(source.at(wanted | {100_000}))
    assert found == [one for one in every if one.line in wanted]
    assert len(found) == 3
    assert list(source.at(set())) == []


def test_a_saved_dataset_gives_them_too(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in written(tmp_path / "a.jsonl", "tevatron").read_text().splitlines()]
    hf(tmp_path / "saved", rows)
    assert [one.query for one in open_source(str(tmp_path / "saved")).at({2, 40})] == ["query 1?", "query 39?"]


def test_lines_that_are_not_asked_for_may_be_broken(tmp_path: Path) -> None:
    path = written(tmp_path / "train.jsonl", "tevatron")
    lines = path.read_bytes().splitlines(keepends=True)
    lines[5] = b"{broken\n"
    path.write_bytes(b"".join(lines))
    assert [one.line for one in open_source(str(path)).at({5, 6, 7})] == [5, 7]
