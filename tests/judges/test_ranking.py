"""Candidates are compared with the positives only by rankings that hold both."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relabel.judges.ranking import orders_of
from relabel.records import UNANSWERED, Call, Case, Reply, Verdict
from tests.conftest import case, instance, passage
from tests.judges.shared import judged, said, says, user

Rank = Callable[[list[str]], Sequence[str]]


def answered(text: str | None, label: str = "answer") -> tuple[Verdict, ...]:
    return (Verdict("snippet", "answer-snippet", "m", label, evidence=text),)


def found_in(candidates: int, positives: int = 1) -> Case:
    """Every candidate n and positive p holds an answer: "snippet of n1" and so on."""
    of = replace(instance(candidates), positives=tuple(passage(f"p{n}") for n in range(1, positives + 1)))
    return case(
        of,
        [answered(f"snippet of {p.docid}") for p in of.negatives],
        [answered(f"snippet of {p.docid}") for p in of.positives],
    )


def numbered(call: Call) -> dict[str, int]:
    """What a prompt shows, by the number it stands under."""
    blocks = re.findall(r"Doc \((\d+)\):\n<passage>\n(.*?)\n</passage>", user(call), re.DOTALL)
    return {text: int(number) for number, text in blocks}


def by(rank: Rank) -> Callable[[Call], Reply]:
    """Replies that rank texts, given in the order in which they are shown, as this function returns them."""

    def script(call: Call) -> Reply:
        numbers = numbered(call)
        return says(ranking=[numbers[text] for text in rank(list(numbers))])

    return script


def ranked(*names: str) -> Callable[[Call], Reply]:
    """Always this ranking, of what the prompt shows of it."""
    texts = [f"snippet of {name}" for name in names]
    return by(lambda shown: [text for text in texts if text in shown])


def labels(of: Case, script: Callable[[Call], Reply | None], **settings: Any) -> list[str | None]:
    return said(judged("answer-ranking", of, script, **settings)[0].candidates)


def test_what_is_placed_above_the_positive_is_above_and_the_rest_below() -> None:
    assert labels(found_in(3), ranked("n2", "p1", "n3", "n1")) == ["below", "above", "below"]


@pytest.mark.parametrize(
    ("above", "expected"),
    [
        ("best", ["above", "below", "below"]),
        ("all", ["above", "below", "below"]),
        ("any", ["above", "above", "below"]),
    ],
)
def test_of_several_positives_the_setting_says_which_must_be_passed(above: str, expected: list[str]) -> None:
    assert labels(found_in(3, positives=2), ranked("n1", "p2", "n2", "p1", "n3"), above=above) == expected


@pytest.mark.parametrize(("above", "expected"), [("best", "below"), ("all", "below"), ("any", "above")])
def test_over_several_orders_the_best_is_the_one_with_the_highest_place_on_average(above: str, expected: str) -> None:
    rankings = [("p1", "n1", "p2"), ("n1", "p2", "p1"), ("p2", "p1", "n1"), ("n1", "p2", "p1"), ("p1", "n1", "p2")]
    asked: list[str] = []

    def script(call: Call) -> Reply:
        asked.append(call.request.key)
        return says(ranking=[numbered(call)[f"snippet of {name}"] for name in rankings[len(asked) - 1]])

    # p1 stands at 0, 2, 1, 2, 0 and p2 at 2, 1, 0, 1, 2: p1 is the best; n1 is above it twice, above p2 four times.
    assert labels(found_in(1, positives=2), script, above=above, orders=5) == [expected]


def test_positives_are_not_told_apart_and_snippets_stand_for_the_passages() -> None:
    _, ((call,),) = judged("answer-ranking", found_in(2), ranked("n1", "p1", "n2"))
    assert set(numbered(call)) == {"snippet of n1", "snippet of n2", "snippet of p1"}
    assert "Ground truth" not in user(call)
    assert "the text of" not in user(call)


def test_whole_passages_are_shown_where_that_is_wanted_or_where_there_is_no_snippet() -> None:
    _, ((call,),) = judged("answer-ranking", found_in(1), by(sorted), show="passages")
    assert set(numbered(call)) == {"the text of n1", "the text of p1"}
    unclear = found_in(1)
    unclear.candidates[0] = (Verdict("snippet", "answer-snippet", "m", None, "ungrounded", evidence="made up"),)
    _, ((call,),) = judged("answer-ranking", unclear, by(sorted))
    assert set(numbered(call)) == {"the text of n1", "snippet of p1"}


def test_what_is_shown_in_the_words_of_a_positive_is_neither_above_nor_below_it_by_chance() -> None:
    of = found_in(2)
    of.candidates[0] = answered("snippet  of p1")
    first = by(lambda shown: sorted(shown, key=lambda text: "  " not in text))
    last = by(lambda shown: sorted(shown, key=lambda text: "  " in text))
    assert [labels(of, script)[0] for script in (first, last)] == ["below", "below"]


def test_the_answer_that_was_found_is_the_evidence() -> None:
    found, _ = judged("answer-ranking", found_in(2), ranked("n1", "p1", "n2"))
    assert [verdict.evidence for verdict in found.candidates.values()] == ["snippet of n1", "snippet of n2"]


def test_below_the_positive_and_without_an_answer_a_candidate_is_unproven() -> None:
    of = found_in(3)
    of.candidates[0] = answered(None, "no_answer")
    of.candidates[1] = (Verdict("snippet", "answer-snippet", "m", None, "ungrounded", found="made up"),)
    first = by(lambda shown: sorted(shown, key=lambda text: ("n2" not in text, "p1" not in text)))
    assert labels(of, first) == ["unproven", "above", "below"]
    plain = case(instance(2))
    last = by(lambda shown: sorted(shown, key=lambda text: "p1" not in text))
    found, _ = judged("answer-ranking", plain, last, show="passages", orders=3)
    assert said(found.candidates) == ["unproven"] * 2
    assert found.candidates[0].votes == {"unproven": 3}


class TestAbstentions:
    @pytest.mark.parametrize(
        ("ranking", "reason"),
        [([1, 2], "no_positive"), ([1, 1, 2, 3], "repeated_id"), ([1, 2, 3, 9], "unknown_id"), (["a"], "malformed")],
    )
    def test_a_faulty_ranking_says_nothing_of_its_whole_window(self, ranking: list[Any], reason: str) -> None:
        def script(call: Call) -> Reply | None:
            positive = numbered(call)["snippet of p1"]
            others = [n for n in (1, 2, 3) if n != positive]
            meant = {1: others[0], 2: others[1], 3: positive}
            return None if call.optional else says(ranking=[meant.get(n, n) for n in ranking])

        assert labels(found_in(2), script, retries=0) == [reason] * 2

    def test_a_candidate_that_is_left_out_abstains_alone(self) -> None:
        assert labels(found_in(3), ranked("n3", "p1", "n1")) == ["below", "left_out", "above"]

    def test_a_missing_reply_leaves_the_window_unanswered(self) -> None:
        assert labels(found_in(2), lambda call: None) == [UNANSWERED] * 2

    def test_a_tie_between_orders_is_no_verdict(self) -> None:
        first = by(lambda shown: shown)
        assert labels(found_in(1), first, orders=2) == ["no_majority"]


class TestSuspectPositives:
    def suspect(self, *kept: str) -> Case:
        """Two positives; those kept hold an answer."""
        of = found_in(1, positives=2)
        for place, name in enumerate(("p1", "p2")):
            if name not in kept:
                of.positives[place] = answered(None, "no_answer")
        return of

    def test_are_ranked_by_their_whole_text(self) -> None:
        script = by(lambda shown: sorted(shown, reverse=True))  # "the text of …" before "snippet of …"
        assert labels(self.suspect(), script, suspect_positive="rank") == ["below"]

    def test_or_leave_the_candidates_undecided_where_no_positive_holds_an_answer(self) -> None:
        found, rounds = judged("answer-ranking", self.suspect(), ranked("n1"), suspect_positive="undecided")
        assert (said(found.candidates), rounds) == (["suspect_positive"], [])

    def test_or_are_left_out_where_another_positive_does(self) -> None:
        found, ((call,),) = judged(
            "answer-ranking", self.suspect("p2"), ranked("n1", "p2"), suspect_positive="undecided"
        )
        assert said(found.candidates) == ["above"]
        assert set(numbered(call)) == {"snippet of n1", "snippet of p2"}


class TestWindows:
    def test_are_disjoint_and_every_one_holds_all_the_positives(self) -> None:
        found, (calls,) = judged(
            "answer-ranking", found_in(7, positives=2), by(lambda shown: sorted(shown)), max_candidates=3
        )
        shown = [set(numbered(call)) for call in calls]
        assert all({"snippet of p1", "snippet of p2"} <= texts for texts in shown)
        assert sorted(text for texts in shown for text in texts if " n" in text) == [
            f"snippet of n{n}" for n in range(1, 8)
        ]
        assert said(found.candidates) == ["above"] * 7

    def test_one_that_abstains_leaves_the_others_their_verdicts(self) -> None:
        def script(call: Call) -> Reply | None:
            if "snippet of n1" in numbered(call):
                return None if call.optional else says(ranking=[])
            return by(sorted)(call)

        assert labels(found_in(4), script, max_candidates=2) == ["no_positive", "no_positive", "above", "above"]

    def test_are_made_where_the_context_is_too_small_and_long_passages_are_ranked_in_parts(self) -> None:
        long = passage("x", "y " * 4000 + "aa treasure " + "y " * 4000)
        of = case(instance([*(passage(f"n{n}", f"{n} " + "word " * 300) for n in range(4)), long]))
        first = by(lambda shown: sorted(shown, key=lambda text: ("treasure" not in text, text.startswith("y"), text)))
        found, (calls,) = judged("answer-ranking", of, first, show="passages", context=3_000, max_tokens=500)
        assert len(calls) > 3
        assert all("the text of p1" in numbered(call) for call in calls)
        assert said(found.candidates) == ["above"] * 5
        assert 0 < (found.candidates[4].offset or 0) <= long.text.index("treasure")

    def test_evidence_keeps_its_place_in_the_whole_passage(self) -> None:
        text = "y " * 4000 + "aa treasure " + "y " * 4000
        of = case(instance([passage("x", text)]))
        found_before = Verdict("s", "j", "m", "answer", evidence="treasure", offset=text.index("treasure"))
        of.candidates[0] = (found_before,)
        of.positives[0] = answered("snippet of p1")
        found, _ = judged("answer-ranking", of, by(sorted), show="passages", context=3_000, max_tokens=500)
        assert (found.candidates[0].evidence, found.candidates[0].offset) == ("treasure", found_before.offset)

    def test_what_has_no_room_beside_the_positives_is_said_to_be_too_long(self) -> None:
        of = case(replace(instance(2), positives=(passage("p", "y " * 9000),)))
        found, rounds = judged("answer-ranking", of, ranked(), show="passages", context=3_000, max_tokens=500)
        assert (said(found.candidates), any(rounds)) == (["too_long"] * 2, False)


class TestOrders:
    def test_the_verdict_is_that_of_most_orders_and_the_score_the_share_that_agrees(self) -> None:
        calls: list[str] = []

        def script(call: Call) -> Reply:
            calls.append(call.request.key)
            names = ("p1", "n1", "n2") if len(calls) == 2 else ("n1", "p1", "n2")
            return says(ranking=[numbered(call)[f"snippet of {name}"] for name in names])

        found, _ = judged("answer-ranking", found_in(2), script, orders=3)
        one, two = found.candidates[0], found.candidates[1]
        assert (one.label, one.score, one.score_kind, one.votes) == (
            "above",
            0.666667,
            "orders",
            {"above": 2, "below": 1},
        )
        assert (two.label, two.score) == ("below", 1.0)
        assert len(set(calls)) == 3

    def test_a_judge_that_goes_by_place_alone_is_found_out(self) -> None:
        found, _ = judged("answer-ranking", found_in(6), by(lambda shown: shown), orders=4)
        assert {verdict.abstained for verdict in found.candidates.values()} == {"no_majority"}

    @given(st.integers(2, 9), st.integers(1, 12))
    def test_orders_are_all_different_and_as_many_as_there_are(self, passages: int, count: int) -> None:
        from math import factorial

        shown = [passage(f"n{n}") for n in range(passages)]
        orders = orders_of("q", shown, count)
        assert len({tuple(order) for order in orders}) == len(orders) == min(count, factorial(passages))
        assert all(sorted(order) == list(range(passages)) for order in orders)
        assert orders == orders_of("q", shown, count)
        assert orders[: len(orders) // 2] == orders_of("q", shown, len(orders) // 2) or len(orders) < 2

    def test_the_positive_does_not_always_stand_first(self) -> None:
        places = {orders_of(f"query {n}", [passage(f"n{m}") for m in range(5)], 1)[0].index(0) for n in range(60)}
        assert places == set(range(5))
