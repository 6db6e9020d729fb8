"""ARHN's rules (arXiv 2604.11092) as a truth table, from replies to decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from relabel.cascade import Cascade
from relabel.folder import find_policy
from relabel.loading import load_config
from relabel.policy import decide
from relabel.records import Call, Outcome, Reply
from tests.conftest import instance, passage
from tests.judges.shared import says, user
from tests.judges.test_ranking import numbered

BOTH, RELABEL, FILTER = "arhn", "arhn-relabel", "arhn-filter"


def decided(
    ranking: Sequence[str], *, answers: str, positives: int = 1, policy: str = BOTH, preset: str = "arhn", **rank: Any
) -> tuple[Outcome, list[Call]]:
    """What comes of candidates n1 … n3 when `answers` names the passages in which an answer is found, and they are
    ranked like this.
    """
    changes = [f"cascade.rank.judge.{name}={value}" for name, value in rank.items()]
    config = load_config(preset, ["input.path=x.jsonl", *changes])
    of = replace(instance(3), positives=tuple(passage(f"p{n}") for n in range(1, positives + 1)))
    made: list[Call] = []

    def reply(call: Call) -> Reply:
        made.append(call)
        if call.tier == "snippet":
            name = user(call).split("the text of ")[1].split("\n")[0]
            return says(answer=f"text of {name}" if name in answers.split() else None)
        numbers = {text.removeprefix("the ").removeprefix("text of "): n for text, n in numbered(call).items()}
        return says(ranking=[numbers[name] for name in ranking])

    asking = Cascade(config).judge(of)
    replies: Sequence[Reply | None] | None = None
    try:
        while True:
            replies = [reply(call) for call in asking.send(replies)]  # type: ignore[arg-type]
    except StopIteration as finished:
        return decide(find_policy(policy), finished.value), made


def actions(outcome: Outcome) -> list[str]:
    return [decision.action for decision in outcome.decisions]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (BOTH, ["relabel", "drop", "keep"]),
        (RELABEL, ["relabel", "keep", "keep"]),
        (FILTER, ["drop", "drop", "keep"]),
    ],
)
def test_above_the_positive_is_relabelled_below_with_an_answer_dropped_and_without_kept(
    policy: str, expected: list[str]
) -> None:
    outcome, made = decided(["n1", "p1", "n2"], answers="p1 n1 n2", policy=policy)
    assert actions(outcome) == expected
    assert [call.tier for call in made] == ["snippet"] * 4 + ["rank"]


def test_filtering_takes_what_holds_an_answer_even_where_there_is_no_ranking() -> None:
    outcome, _ = decided(["p1", "n2"], answers="p1 n1 n2", policy=FILTER)  # n1 is left out
    assert actions(outcome) == ["drop", "drop", "keep"]
    assert actions(decided(["p1", "n2"], answers="p1 n1 n2")[0]) == ["keep", "drop", "keep"]


@pytest.mark.parametrize(
    ("answers", "ranking", "expected"),
    [
        ("p1", [], ["keep", "keep", "keep"]),
        ("p1 n3", ["n3", "p1"], ["keep", "keep", "relabel"]),
        ("p1 n3", ["p1", "n3"], ["keep", "keep", "drop"]),
        ("p1 n1 n2 n3", ["n3", "n2", "n1", "p1"], ["relabel", "relabel", "relabel"]),
        ("p1 n1 n2 n3", ["p1", "n2", "n1", "n3"], ["drop", "drop", "drop"]),
        ("n1 n2", ["n1", "p1", "n2"], ["relabel", "drop", "keep"]),
        ("", [], ["keep", "keep", "keep"]),
    ],
)
def test_one_positive_with_and_without_an_answer(answers: str, ranking: list[str], expected: list[str]) -> None:
    outcome, _ = decided(ranking, answers=answers)
    assert actions(outcome) == expected
    assert [verdicts[-1].label for verdicts in outcome.positives] == ["answer" if "p1" in answers else "no_answer"]


@pytest.mark.parametrize(
    ("above", "expected"),
    [
        ("best", ["relabel", "drop", "drop"]),
        ("any", ["relabel", "relabel", "drop"]),
        ("all", ["relabel", "drop", "drop"]),
    ],
)
@pytest.mark.parametrize("answers", ["p1 p2 n1 n2 n3", "p1 n1 n2 n3", "n1 n2 n3"])
def test_several_positives(above: str, expected: list[str], answers: str) -> None:
    outcome, _ = decided(["n1", "p2", "n2", "p1", "n3"], answers=answers, positives=2, above=above)
    assert actions(outcome) == expected


def test_a_suspect_positive_is_ranked_by_its_whole_text_in_the_preset() -> None:
    _, made = decided(["n1", "p1"], answers="n1")
    assert set(numbered(made[-1])) == {"text of n1", "the text of p1"}


@pytest.mark.parametrize(
    ("answers", "expected", "rules"),
    [
        ("n1 n2", ["keep", "keep", "keep"], ["undecided", "undecided", "no-objection"]),
        ("p2 n1 n2", ["relabel", "drop", "keep"], ["false-negative", "false-negative", "no-objection"]),
    ],
)
def test_or_it_leaves_undecided_what_has_nothing_else_to_be_compared_with(
    answers: str, expected: list[str], rules: list[str]
) -> None:
    outcome, made = decided(["n1", "p2", "n2"], answers=answers, positives=2, suspect_positive="undecided")
    assert actions(outcome) == expected
    assert [decision.rule for decision in outcome.decisions] == rules
    assert sum(call.tier == "rank" for call in made) == ("p2" in answers)
