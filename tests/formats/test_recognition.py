"""`format: auto` tells a set by its columns, and says what it looked for where it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from relabel.errors import InputError
from relabel.formats import FORMATS, open_sink, open_source
from relabel.records import Instance, Passage
from tests.conftest import tevatron
from tests.formats.shared import compose, instances, line, sides, write
from tests.formats.test_beir import beir

FLAG = {"query": "q", "pos": ["p"], "neg": ["n"]}
LISTED = {"anchor": "q", "passages": ["p", "n"], "labels": [1, 0]}


@pytest.mark.parametrize(
    ("record", "name"),
    [
        (tevatron(1), "tevatron"),
        (FLAG, "flagembedding"),
        ({**FLAG, "label": "a word"}, "flagembedding"),
        ({"anchor": "q", "positive": "p", "negative": "n"}, "sentence-transformers"),
        ({"anchor": "q", "positive": "p", "negative_1": "n"}, "sentence-transformers"),
        ({"query": "q", "passage": "p", "label": 1}, "sentence-transformers"),
        (LISTED, "sentence-transformers"),
    ],
)
def test_tells_a_format_by_its_columns(tmp_path: Path, record: dict[str, Any], name: str) -> None:
    source = open_source(str(write(tmp_path / "set", line(record))))
    assert source.format_name == name
    assert len(instances(source)) == 1


def test_tells_a_beir_folder(tmp_path: Path) -> None:
    assert open_source(str(beir(tmp_path / "set"))).format_name == "beir"


def test_a_faulty_first_record_does_not_hide_the_format(tmp_path: Path) -> None:
    path = write(tmp_path / "set", b"{broken\n", b"[1]\n", b"{}\n", line(FLAG))
    assert open_source(str(path)).format_name == "flagembedding"


def test_sentence_transformers_finds_its_layout_itself(tmp_path: Path) -> None:
    source = open_source(str(write(tmp_path / "set", line(LISTED))), format="sentence-transformers")
    assert [sides(found) for found in instances(source)] == [("q", ["p"], ["n"])]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (b'{"a": 1, "b": 2}\n', "found the columns a, b; expected query_id/query/positive_passages"),
        (b'{"query": "q"}\n', "found the columns query; expected"),
        (b"query,pos,neg\nq,p,n\n", "found line 1 is not JSON: .* at column 1; expected"),
        (b'{\n "query": "q"\n}\n', "found line 1 is not JSON"),
        (b"\n \n\r\n", "found no records in it; expected"),
        (b"[1]\n[2]\n", "found line 1 is a list, expected a JSON object; expected"),
    ],
)
def test_says_what_it_found_and_what_it_expected(tmp_path: Path, found: bytes, message: str) -> None:
    path = write(tmp_path / "set", found)
    with pytest.raises(InputError, match=f"{path}: {message}.*Say which with input.format"):
        open_source(str(path))


@pytest.mark.parametrize("name", ["msmarco", "tevatron2", "sentence-transformers:pair", "flagembedding:x"])
def test_an_unknown_format_is_an_error_that_names_those_there_are(tmp_path: Path, name: str) -> None:
    message = "unknown format .*; expected one of tevatron, flagembedding, sentence-transformers:triplet, .*beir"
    path = write(tmp_path / "set", line(FLAG))
    with pytest.raises(InputError, match=message):
        open_source(str(path), format=name)
    with pytest.raises(InputError, match=message):
        open_sink(tmp_path / "out", name)


def test_another_format_cannot_be_written_as_beir(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written as beir"):
        open_sink(tmp_path / "out", "beir")


@pytest.mark.parametrize("name", FORMATS[:3])
def test_a_set_read_as_beir_can_be_written_as_another(tmp_path: Path, name: str) -> None:
    made = instances(open_source(str(beir(tmp_path / "set"))))
    (first, _) = instances(open_source(str(compose(tmp_path / "out", name, made))))
    titles = "" if name == "tevatron" else "title 1 "
    assert first.positives[0].text == titles + "text 1"
    assert first.subset == "set"


def test_a_composed_set_says_its_scores_where_it_can(tmp_path: Path) -> None:
    scored = Instance(1, "q", "q", (Passage("p", "", "p", 2.0),), (Passage("n", "", "n", 0.5),))
    for name in FORMATS[:2]:
        (found,) = instances(open_source(str(compose(tmp_path / name, name, [scored]))))
        assert [p.score for p in (*found.positives, *found.negatives)] == [2.0, 0.5]
