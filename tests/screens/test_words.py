"""Screens of words, and of the scores that the mining left, ask nobody."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relabel.records import Instance, Passage, Verdict
from relabel.screens.words import NO_SCORE, similarity
from tests.conftest import case, passage
from tests.screens.shared import screened

POSITIVE = "Mount Kilimanjaro is the highest mountain in Africa, 5,895 metres above the sea."


def judged(screen: Any, *texts: str, query: str = "highest mountain in Africa", **settings: Any) -> list[Verdict]:
    of = case(Instance(1, "q", query, (passage("p", POSITIVE),), tuple(passage(t, t) for t in texts)))
    return screened(of, screen=screen, **settings)[0]


def labels(*args: Any, **kwargs: Any) -> list[str | None]:
    return [verdict.label for verdict in judged(*args, **kwargs)]


def mined(positives: list[float | None], negatives: list[float | None], **settings: Any) -> list[str | None]:
    """What is said of candidates with these scores."""
    known, judged = (
        tuple(Passage(f"{side}{n}", "", f"text {side}{n}", score) for n, score in enumerate(scores))
        for side, scores in (("p", positives), ("n", negatives))
    )
    verdicts, _ = screened(case(Instance(1, "q", "q", known, judged)), screen="mined", **settings)
    return [verdict.label or verdict.abstained for verdict in verdicts]


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
    assert found[0].signals == {"of_positives": 1.0}


def test_a_query_that_shares_nothing_with_the_positive_makes_nothing_close() -> None:
    assert labels("lexical", "anything", query="日本") == ["clear"]


def test_scores_of_the_mining_are_held_against_the_best_positive() -> None:
    assert mined([0.5, 0.8], [0.77, 0.75, 0.2]) == ["close", "clear", "clear"]
    assert mined([0.8], [0.77, 0.75, 0.2], rule="margin", threshold=0.05) == ["close", "close", "clear"]


def test_a_candidate_without_a_score_is_not_judged_and_takes_nobody_elses_verdict() -> None:
    assert mined([0.8], [None, 0.9, None, 0.1]) == [NO_SCORE, "close", NO_SCORE, "clear"]
    assert mined([None], [0.9]) == [NO_SCORE]
    assert mined([None], [0.9, 0.1], rule="score", threshold=0.5) == ["close", "clear"]


@given(st.text(min_size=1), st.text(min_size=1))
def test_similarity_is_symmetric_and_within_zero_and_one(one: str, other: str) -> None:
    def score(a: str, b: str) -> float:
        (found,) = similarity([Passage("p", "", a)], [Passage("n", "", b)])
        return found

    assert score(one, other) == pytest.approx(score(other, one))
    assert 0 <= score(one, other) <= 1
