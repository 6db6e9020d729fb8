"""Screens look at the words alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relabel.config import ScreenSettings
from relabel.records import Instance, Passage, Verdict
from relabel.screens import Screen, similarity
from tests.conftest import case, passage

POSITIVE = "Mount Kilimanjaro is the highest mountain in Africa, 5,895 metres above the sea."


def judged(
    screen: Any, *texts: str, query: str = "highest mountain in Africa", threshold: float = 0.95
) -> list[Verdict]:
    judged = case(Instance(1, "q", query, (passage("p", POSITIVE),), tuple(passage(t, t) for t in texts)))
    asking = Screen("tier", ScreenSettings(screen=screen, threshold=threshold)).judge(judged, "", range(len(texts)))
    with pytest.raises(StopIteration) as finished:
        next(asking)
    return [finished.value.value.candidates[place] for place in range(len(texts))]


def labels(*args: Any, **kwargs: Any) -> list[str | None]:
    return [verdict.label for verdict in judged(*args, **kwargs)]


def test_a_copy_is_a_duplicate_and_white_space_does_not_hide_it() -> None:
    assert labels("exact-duplicate", POSITIVE, f"  {POSITIVE}\n", POSITIVE + "!") == ["duplicate", "duplicate", "clear"]


def test_a_copy_with_small_changes_is_a_near_duplicate() -> None:
    found = judged("near-duplicate", POSITIVE.replace("5,895", "5,896"), "Mount Kenya is the second highest mountain.")
    assert [verdict.label for verdict in found] == ["near-duplicate", "clear"]
    assert found[0].score is not None
    assert 0.95 <= found[0].score < 1


def test_a_sentence_inside_a_long_passage_is_no_near_duplicate_of_it() -> None:
    assert labels("near-duplicate", POSITIVE + " " + "It was first climbed in 1889. " * 10) == ["clear"]


def test_a_passage_as_close_to_the_query_as_the_positive_is_close() -> None:
    found = judged("lexical", "The highest mountain in Africa rises in Tanzania.", "Lake Victoria lies in Uganda.")
    assert [verdict.label for verdict in found] == ["close", "clear"]


def test_a_query_that_shares_nothing_with_the_positive_makes_nothing_close() -> None:
    assert labels("lexical", "anything", query="日本") == ["clear"]


@given(st.text(min_size=1), st.text(min_size=1))
def test_similarity_is_symmetric_and_within_zero_and_one(one: str, other: str) -> None:
    def score(a: str, b: str) -> float:
        return similarity(Instance(1, "q", "q", (Passage("p", "", a),), ()), Passage("n", "", b))

    assert score(one, other) == pytest.approx(score(other, one))
    assert 0 <= score(one, other) <= 1
