"""Verdicts become numbers, each named `tier.field`."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relabel.records import Verdict
from relabel.signals import features, fields

ANSWER, GRADES, VERSUS = ("no_answer", "answer"), ("0", "1", "2", "3"), ("irrelevant", "worse", "equal", "better")


def counted(label: str | None, labels: tuple[str, ...], **said: Any) -> dict[str, float]:
    return features((Verdict("t", "j", "m", label, **said),), {"t": labels})


def test_grades_are_one_feature_and_labels_one_each_but_the_first() -> None:
    assert fields(GRADES) == ("grade",)
    assert fields(VERSUS) == ("worse", "equal", "better")


@pytest.mark.parametrize(
    ("label", "labels", "said", "expected"),
    [
        ("2", GRADES, {}, {"t.grade": 2.0}),
        ("2", GRADES, {"votes": {"2": 3, "1": 1}}, {"t.grade": 1.75}),
        ("2", GRADES, {"votes": {"2": 3, "unparsed": 5}}, {"t.grade": 2.0}),
        ("2", GRADES, {"score": 0.7, "score_kind": "logprobs"}, {"t.grade": 2.0}),
        ("answer", ANSWER, {}, {"t.answer": 1.0}),
        ("no_answer", ANSWER, {}, {"t.answer": 0.0}),
        ("no_answer", ANSWER, {"score": 0.8, "score_kind": "logprobs"}, {"t.answer": pytest.approx(0.2)}),
        (
            "worse",
            VERSUS,
            {"votes": {"worse": 2, "equal": 1, "irrelevant": 1}},
            {"t.worse": 0.5, "t.equal": 0.25, "t.better": 0.0},
        ),
        (
            "clear",
            ("close", "clear"),
            {"score": 0.4, "score_kind": "similarity", "signals": {"x": 0.1}},
            {"t.score": 0.4, "t.x": 0.1},
        ),
        (None, GRADES, {"abstained": "length"}, {}),
        ("unsure", ("unsure",), {"score": 0.4, "score_kind": "probability"}, {}),
    ],
)
def test_truth_table(
    label: str | None, labels: tuple[str, ...], said: dict[str, Any], expected: dict[str, float]
) -> None:
    assert counted(label, labels, **said) == expected


@given(st.sampled_from(VERSUS), st.dictionaries(st.sampled_from((*VERSUS, "length")), st.integers(1, 9), min_size=1))
def test_shares_are_never_more_than_all(label: str, votes: dict[str, int]) -> None:
    found = counted(label, VERSUS, votes=votes)
    assert set(found) == {"t.worse", "t.equal", "t.better"}
    assert 0 <= sum(found.values()) <= 1 + 1e-9
