"""What people say of candidates: files of labels, and the reviews of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from relabel.errors import InputError
from relabel.labels import read_reviews


def test_the_last_review_of_a_candidate_counts(tmp_path: Path) -> None:
    path = tmp_path / "reviews.jsonl"
    path.write_text(
        '{"query_id": "q1", "docid": "d1", "relevant": true, "reviewer": "ann"}\n'
        '{"query_id": 2, "docid": "d1", "relevant": false}\n'
        '{"query_id": "q1", "docid": "d1", "relevant": false, "reviewer": "ann"}\n'
    )
    assert read_reviews(path) == {("q1", "d1"): False, ("2", "d1"): False}


def test_no_reviews_are_no_fault(tmp_path: Path) -> None:
    assert read_reviews(tmp_path / "none.jsonl") == {}
    (tmp_path / "empty.jsonl").touch()
    assert read_reviews(tmp_path / "empty.jsonl") == {}


def test_a_review_that_says_nothing_is_named(tmp_path: Path) -> None:
    path = tmp_path / "reviews.jsonl"
    path.write_text('{"query_id": "q1", "docid": "d1", "relevant": "yes"}\n')
    with pytest.raises(InputError, match="line 1: relevant is 'yes', expected true or false"):
        read_reviews(path)
