"""Tevatron: passages are objects, and move whole."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from relabel.formats import open_source
from relabel.records import Instance, Passage
from tests.conftest import tevatron
from tests.formats.shared import check_composed, composed, instances, line, lines, on_disk, rewritten, write


def test_reads_ids_titles_texts_scores_and_subset(tmp_path: Path) -> None:
    record = tevatron(1, negatives=1, subset="nq")
    record["negative_passages"][0] |= {"title": "A title", "score": 0.5}
    (found,) = instances(open_source(str(write(tmp_path / "set", line(record)))))
    assert (found.line, found.query_id, found.query, found.subset) == (1, "q1", "what is the number 1?", "nq")
    assert found.positives == (Passage("q1-p1", "", "It is the number 1."),)
    assert found.negatives == (Passage("q1-n1", "A title", "Candidate 1 of query 1.", 0.5),)


def test_subset_of_the_source_names_the_instances_that_do_not_say(tmp_path: Path) -> None:
    path = write(tmp_path / "set", line(tevatron(1)), line(tevatron(2, subset="nq")))
    assert [found.subset for found in instances(open_source(str(path), subset="fiqa"))] == ["fiqa", "nq"]


def test_whole_numbers_are_ids_too(tmp_path: Path) -> None:
    record = tevatron(1, query_id=7)
    record["positive_passages"][0]["docid"] = 12
    (found,) = instances(open_source(str(write(tmp_path / "set", line(record)))))
    assert (found.query_id, found.positives[0].docid) == ("7", "12")


def test_a_relabelled_passage_keeps_all_its_fields_and_goes_behind_the_positives(tmp_path: Path) -> None:
    record = tevatron(1)
    record["negative_passages"][1] |= {"score": 0.25, "url": "https://é.example", "spans": [[0, 3]]}
    moved = record["negative_passages"][1]
    rewritten(write(tmp_path / "set", line(record)), tmp_path / "out", "keep", "relabel")
    (written,) = lines(tmp_path / "out")
    assert written["positive_passages"] == [*record["positive_passages"], moved]
    assert written["negative_passages"] == [record["negative_passages"][0], record["negative_passages"][2]]


def test_unknown_columns_and_the_order_of_keys_survive_a_change(tmp_path: Path) -> None:
    record = {"extra": {"z": 1, "a": [None, "é", "漢字", "🙂"]}, **tevatron(1), "big": 10**40, "nan": float("nan")}
    rewritten(write(tmp_path / "set", line(record)), tmp_path / "out", "drop")
    record["negative_passages"] = record["negative_passages"][1:]
    assert (tmp_path / "out").read_bytes() == line(record)


def test_duplicate_docids_and_a_passage_on_both_sides_are_accepted(tmp_path: Path) -> None:
    record = tevatron(1)
    record["negative_passages"][1] = record["negative_passages"][0]
    record["negative_passages"][2] = record["positive_passages"][0]
    (found,) = instances(open_source(str(write(tmp_path / "set", line(record)))))
    assert [passage.docid for passage in found.negatives] == ["q1-n1", "q1-n1", "q1-p1"]


def test_an_instance_without_negatives_and_a_negative_without_text_are_accepted(tmp_path: Path) -> None:
    empty = tevatron(2, negatives=1)
    empty["negative_passages"][0]["text"] = ""
    path = write(tmp_path / "set", line(tevatron(1, negatives=0)), line(empty))
    assert [len(found.negatives) for found in instances(open_source(str(path)))] == [0, 1]


def test_all_negatives_may_go(tmp_path: Path) -> None:
    path = write(tmp_path / "set", line(tevatron(1)))
    (left,) = instances(rewritten(path, tmp_path / "out", "relabel", "drop", "drop"))
    assert (len(left.positives), left.negatives) == (2, ())


@on_disk
@given(composed(), st.data())
def test_what_is_written_is_what_was_decided(made: list[Instance], data: st.DataObject) -> None:
    check_composed(made, data, "tevatron")


def test_reads_the_published_sets(fiqa: Path) -> None:
    path = next(fiqa.glob("*.jsonl"))
    found = instances(open_source(str(path)))
    assert len(found) == len([text for text in path.read_text("utf-8").splitlines() if json.loads(text)])
