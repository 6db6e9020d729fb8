"""Examples tell much, and are cut to what can be read."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from relabel.records import Passage, Reply, Verdict
from relabel.report.examples import SHOWN, choose, described, is_of, shown
from relabel.report.facts import flags_of
from relabel.report.queries import Tables
from tests.report.shared import FACTS, Said, outcome, written


def test_twenty_of_each_kind_are_chosen_by_turns_from_the_subsets_one_of_a_query(tmp_path: Path) -> None:
    said: list[Said] = [("worse", "better"), ("worse", "irrelevant"), ("irrelevant",), ("worse", None)]
    outcomes = [outcome(n, said, subset="small" if n % 50 == 0 else "large") for n in range(1, 401)]
    written(tmp_path, outcomes)
    with Tables(tmp_path, flags_of(FACTS)) as tables:
        chosen = choose(tables)
    kinds = Counter(one.kind for one in chosen)
    assert kinds == {"relabel": SHOWN, "keep": SHOWN, "undecided": SHOWN}
    for kind in kinds:
        own = [one for one in chosen if one.kind == kind]
        assert len({one.query_id for one in own}) == SHOWN
        assert sum(one.subset == "small" for one in own) >= 5
        assert Counter(one.why for one in own).keys() == {"doubtful", "at random"}
    doubtful = [one for one in chosen if one.kind == "keep" and one.why == "doubtful"]
    assert all(one.position == 2 for one in doubtful), "where the strong tier overruled the cheap one"


def test_they_come_with_texts_verdicts_and_replies(tmp_path: Path) -> None:
    outcomes = [outcome(n, [("worse", "better")]) for n in range(1, 4)]
    written(tmp_path, outcomes)
    with Tables(tmp_path, flags_of(FACTS)) as tables:
        chosen = choose(tables)
    found = described(chosen, outcomes, lambda key: Reply("ok", f"the reply {key}"), {("q2", "d2-1"): False})
    assert len(found) == 3
    one = next(one for one in found if one["query_id"] == "q2")
    assert (one["query"], one["passage"]["docid"], one["passage"]["text"]) == ("query 2?", "d2-1", "a text")
    assert [each["people"] for each in found].count(False) == 1
    assert one["people"] is False
    assert (one["action"], one["rule"]) == ("relabel", "false-negative")
    assert [(said["tier"], said["label"]) for said in one["verdicts"]] == [("cheap", "worse"), ("strong", "better")]


def test_of_a_long_passage_the_part_around_its_evidence_is_shown() -> None:
    text = "x" * 50_000 + "the answer" + "y" * 50_000
    verdict = Verdict("snippet", "j", "m", "answer", evidence="the answer", offset=50_000)
    found = shown(Passage("d", "", text), (verdict,), "d")
    start, end = found["evidence"]
    assert found["text"][start:end] == "the answer"
    assert found["before"] + len(found["text"]) + found["after"] == len(text)
    assert len(found["text"]) <= 3000


MADE = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("name", "read", "expected"),
    [(MADE, MADE, True), (f"{MADE}-12", f"{MADE}-3", True), (f"{MADE}-2", MADE, True), ("q-1", "q-2", False)],
)
def test_only_of_an_id_that_was_made_the_number_may_be_another(name: str, read: str, expected: bool) -> None:
    assert is_of(name, read) is expected


def test_those_on_which_people_say_otherwise_come_first(tmp_path: Path) -> None:
    outcomes = [outcome(n, [("worse", "better")]) for n in range(1, 301)]
    written(tmp_path, outcomes)
    people = {(f"q{n}", f"d{n}-1"): n % 100 != 0 for n in range(1, 301)}
    with Tables(tmp_path, flags_of(FACTS), people) as tables:
        telling = [one.query_id for one in choose(tables) if one.why == "doubtful"]
    assert set(telling[:3]) == {"q100", "q200", "q300"}
