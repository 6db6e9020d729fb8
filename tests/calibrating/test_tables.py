"""Verdict tables and human labels from files, with the line of whatever is wrong in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from relabel.calibrating.pairs import Pairs
from relabel.calibrating.tables import from_tables
from relabel.errors import ConfigError, InputError
from relabel.labels import read_labels

LABELS = {("q1", "d1"): True, ("q1", "d2"): False}


def row(docid: str, tier: str, label: Any = None, **more: Any) -> dict[str, Any]:
    return {"query_id": "q1", "docid": docid, "tier": tier, "judge": "j", "sample": 0, "label": label, **more}


def table(folder: Path, *rows: dict[str, Any]) -> str:
    path = folder / "verdicts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(path: str, strong: str = "strong", found: tuple[str, ...] = ()) -> Pairs:
    return from_tables([path], LABELS, strong, found, 2)


def test_votes_of_a_tier_are_one_feature_whoever_gave_them(tmp_path: Path) -> None:
    rows = [row("d1", "cheap", grade, sample=n, judge=f"prompt {n}") for n, grade in enumerate([1, 2, "3", 2.0])]
    found = read(table(tmp_path, *rows, row("d1", "strong", 2), row("d1", "screen", score=0.7)))
    (pair,) = found.pairs
    assert pair.cheap == {"cheap.grade": 2.0, "screen.score": 0.7}
    assert pair.strong == {"strong.grade": 2.0}
    assert (pair.finds, pair.relevant) == (True, True)
    assert sorted(found.cheap) == ["cheap.grade", "screen.score"]
    assert found.notes == ["1 of 2 labelled pairs have no verdict of strong and are left out"]


def test_labels_that_are_no_grades_must_be_told_to_mean_relevant(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        row("d1", "cheap", "answer"),
        row("d2", "cheap", "no_answer"),
        row("d1", "strong", "better"),
        row("d2", "strong", "worse"),
    )
    with pytest.raises(ConfigError, match=r"labels of strong are no grades \(better, worse\)"):
        read(path)
    with pytest.raises(ConfigError, match="strong gives no such label; it gives better, worse"):
        read(path, found=("best",))
    found = read(path, found=("better",))
    assert [pair.finds for pair in found.pairs] == [True, False]
    assert found.pairs[0].cheap == {"cheap.answer": 1.0, "cheap.no_answer": 0.0}


def test_a_verdict_without_label_and_score_is_an_abstention(tmp_path: Path) -> None:
    found = read(
        table(tmp_path, row("d1", "cheap"), row("d2", "cheap", 1), row("d1", "strong"), row("d2", "strong", 3))
    )
    assert [pair.cheap for pair in found.pairs] == [{}, {"cheap.grade": 1.0}]
    assert [pair.finds for pair in found.pairs] == [None, True]


def test_a_tier_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--strong gpt: no such tier; the table has cheap"):
        read(table(tmp_path, row("d1", "cheap", 1)), strong="gpt")


def test_a_strong_tier_without_labels_and_a_tier_of_both_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--strong strong: gives scores or nothing"):
        read(table(tmp_path, row("d1", "cheap", 1), row("d1", "strong", score=0.9)))
    mixed = [row("d1", "cheap", 1), row("d2", "cheap", score=0.5), row("d1", "strong", 1)]
    with pytest.raises(InputError, match="tier 'cheap' gives labels in some rows and scores in others"):
        read(table(tmp_path, *mixed))


def test_numbers_that_are_none_are_refused_in_parquet(tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"
    pq.write_table(pa.table({"query_id": ["q1"], "docid": ["d1"], "grade": [float("nan")]}), path)
    with pytest.raises(InputError, match="line 1: grade is nan, expected a number"):
        read_labels(str(path), 2)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"docid": None}, "line 2: docid is None, expected a text"),
        ({"query_id": True}, "line 2: query_id is True"),
        ({"tier": ""}, "line 2: tier is '', expected a name"),
        ({"judge": 3}, "line 2: judge is 3, expected a name"),
        ({"score": "high"}, "line 2: score is 'high', expected a number or null"),
        ({"label": None, "score": 1e300}, "line 2: score is 1e\\+300, expected a number"),
        ({"label": 1, "score": 0.5}, "line 2: has a label and a score"),
        ({"label": ["a"]}, r"line 2: label is \['a'\], expected a text, a grade or null"),
    ],
)
def test_a_bad_row_is_refused_with_its_line(bad: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        read(table(tmp_path, row("d1", "strong", 1), {**row("d1", "cheap", 1), **bad}))


def labels(folder: Path, *rows: Any) -> str:
    path = folder / "labels.jsonl"
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in rows))
    return str(path)


def label(docid: str, grade: Any) -> dict[str, Any]:
    return {"query_id": "q1", "docid": docid, "grade": grade}


def test_labels_are_relevant_from_a_grade_on(tmp_path: Path) -> None:
    assert read_labels(labels(tmp_path, label("d1", 2), label("d2", 1), label("d2", 1)), 2) == LABELS


def test_labels_may_be_parquet(tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"
    pq.write_table(pa.table({"query_id": ["q1", "q1"], "docid": ["d1", "d2"], "grade": [3, 0]}), path)
    assert read_labels(str(path), 2) == LABELS


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "empty"),
        (["{"], "line 1: not JSON"),
        ([label("d1", "high")], "line 1: grade is 'high', expected a number"),
        ([label("d1", None)], "line 1: grade is None"),
        ([label("d1", True)], "line 1: grade is True"),
        (
            [label("d1", 2), label("d1", 0)],
            "line 2: query 'q1', docid 'd1' is labelled 0 here and 2 in line 1; keep one",
        ),
        ([{"qid": "q1", "docid": "d", "grade": 1}], "query_id is None, expected a text; the row has qid, docid, grade"),
    ],
)
def test_bad_labels_are_refused_with_their_line(rows: list[Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        read_labels(labels(tmp_path, *rows), 2)
