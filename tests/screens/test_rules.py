"""When a candidate is too close for a negative, by the scores of its instance."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from relabel.config import TierSettings, WordScreenSettings
from relabel.screens.rules import labels

SCORES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20)


def close(scores: list[float], positive: float | None, rule: Any, threshold: float | None = None) -> list[bool]:
    settings = WordScreenSettings(screen="mined", rule=rule, threshold=threshold)
    return [label == "close" for label in labels(settings, scores, positive)]


@pytest.mark.parametrize(
    ("rule", "threshold", "positive", "score", "expected"),
    [
        ("share", 0.95, 0.80, 0.77, True),
        ("share", 0.95, 0.80, 0.75, False),
        ("share", 0.95, -2.0, -2.05, True),  # 5 % below a negative score is further from 0
        ("share", 0.95, -2.0, -2.15, False),
        ("share", 0.95, 0.0, 5.0, False),  # there is no share of nothing
        ("share", 1.1, 0.80, 0.85, False),
        ("share", 1.1, 0.80, 0.90, True),
        ("margin", 0.05, 0.80, 0.76, True),
        ("margin", 0.05, 0.80, 0.74, False),
        ("margin", 0.05, -2.0, -2.04, True),
        ("margin", 0.05, -2.0, -2.06, False),
        ("score", 0.6, 0.1, 0.6, True),
        ("score", 0.6, None, 0.59, False),
        ("share", 0.95, None, 9.0, False),
    ],
)
def test_truth_table(rule: str, threshold: float, positive: float | None, score: float, expected: bool) -> None:
    assert close([score], positive, rule, threshold) == [expected]


def test_a_margin_by_spread_is_wide_where_scores_are_wide_apart() -> None:
    assert close([0.60, 0.20], 0.70, "spread", 1.0) == [True, False]
    assert close([0.60, 0.58], 0.70, "spread", 1.0) == [False, False]


@given(SCORES, st.floats(-1e6, 1e6), st.sampled_from(["share", "margin", "spread"]), st.floats(0, 2))
def test_a_closer_candidate_is_never_clear_where_a_less_close_one_is_not(
    scores: list[float], positive: float, rule: str, threshold: float
) -> None:
    found = close(scores, positive, rule, threshold)
    told = [score for score, is_close in zip(scores, found, strict=True) if is_close]
    assert all(is_close for score, is_close in zip(scores, found, strict=True) if told and score >= min(told))


@given(SCORES, st.floats(-1e6, 1e6))
def test_what_is_closer_than_the_positive_is_close_by_margin_and_share(scores: list[float], positive: float) -> None:
    for rule in ("margin", "share"):
        found = close(scores, positive, rule)
        assert all(is_close for score, is_close in zip(scores, found, strict=True) if score > positive != 0)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"screen": "embedding"}, "model\n  Field required"),
        ({"screen": "embeddings"}, "no screen 'embeddings'; expected exact-duplicate, .*, embedding, cross-encoder"),
        ({"screen": "lexical", "model": "m"}, "unknown key 'model'"),
        (
            {"screen": "cross-encoder", "model": "m", "to": "positives"},
            "a cross-encoder scores a passage for the query",
        ),
        ({"screen": "near-duplicate", "rule": "share"}, "compares with the positives already"),
        ({"screen": "mined", "rule": "spread"}, "no usual threshold"),
        ({"screen": "cross-encoder", "model": "m", "rule": "score"}, "no usual threshold"),
        ({"screen": "mined", "rule": "margin", "threshold": -1}, "it is 0 or more"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        TierSettings(name="t", judge=given)
