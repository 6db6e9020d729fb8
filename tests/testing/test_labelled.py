"""The judge that knows the answers is right, wrong or spoilt just as often as it is told to be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from relabel.forms import FORMS
from relabel.parsing import Abstained, Opinion, parse_answer, parse_grade, parse_ranking, parse_rlhn, parse_versus
from relabel.prompts import DEFAULT_KIND, load_prompt
from relabel.records import Passage, Reply
from relabel.testing import Answer, LabelledJudge
from tests.conftest import passage

QUERY = "who?"
GRADES = {"the best answer": 3.0, "a good answer": 2.0, "another good answer": 2.0, "an answer": 1.0, "nothing": 0.0}
LABELS = {QUERY: GRADES}


def asked(
    prompt: str, judge: LabelledJudge, positives: Sequence[str], candidates: Sequence[str], query: str = QUERY
) -> Answer:
    shown = [[passage(text, text) for text in texts] for texts in (positives, candidates)]
    return judge({"model": "m", "messages": list(load_prompt(prompt).messages(DEFAULT_KIND, query, *shown))})


def replied(answer: Answer) -> Reply:
    return Reply("ok", answer.text, answer.finish_reason, answer.message.get("refusal"))


def perfect(**settings: Any) -> LabelledJudge:
    return LabelledJudge(LABELS, relevant=1, **settings)


def test_sorts_a_list_by_the_best_of_the_positives() -> None:
    answer = asked(
        "rlhn", perfect(), ["an answer", "a good answer"], ["nothing", "the best answer", "another good answer"]
    )
    assert parse_rlhn(replied(answer), 3) == ["irrelevant", "better", "better"]
    answer = asked("rlhn", perfect(), ["the best answer"], ["a good answer"])
    assert parse_rlhn(replied(answer), 1) == ["worse"]


def test_ranks_by_grade_whatever_the_order() -> None:
    shown = ["nothing", "an answer", "the best answer"]
    assert parse_ranking(replied(asked("answer-ranking", perfect(), [], shown)), 3, {1, 2, 3}) == [2, 1, 0]
    assert parse_ranking(replied(asked("answer-ranking", perfect(), [], shown[::-1])), 3, {1}) == [0, 1, 2]


@pytest.mark.parametrize(
    ("candidate", "verdict"),
    [
        ("the best answer", "better"),
        ("another good answer", "equal"),
        ("an answer", "worse"),
        ("nothing", "irrelevant"),
    ],
)
def test_compares_with_the_positive(candidate: str, verdict: str) -> None:
    answer = asked("versus-positive", perfect(), ["a good answer"], [candidate])
    found = parse_versus(replied(answer), Passage("n", "", candidate))
    assert isinstance(found, Opinion)
    assert found.label == verdict


def test_quotes_what_is_relevant_and_grades_it() -> None:
    answer = asked("answer-snippet", perfect(), [], ["an answer"])
    assert parse_answer(replied(answer), Passage("n", "", "an answer")) == Opinion("answer", "an answer", 0)
    assert parse_answer(
        replied(asked("answer-snippet", perfect(), [], ["nothing"])), Passage("n", "", "nothing")
    ) == Opinion("no_answer")
    assert parse_grade(replied(asked("graded", perfect(), [], ["an answer"]))) == Opinion("2")
    assert parse_grade(replied(asked("graded", perfect(), [], ["the best answer"]))) == Opinion("3")
    assert parse_grade(replied(asked("graded", perfect(), [], ["nothing"]))) == Opinion("0")


def test_finds_its_snippet_in_a_window_of_a_long_passage() -> None:
    long = "It is the second door. " * 400
    judge = LabelledJudge({QUERY: {long: 1.0}}, relevant=1)
    assert parse_grade(replied(asked("graded", judge, [], [long[:3000]]))) == Opinion("3")
    assert parse_grade(replied(asked("graded", judge, [], [long[-3000:].upper()]))) == Opinion("0")


def test_a_passage_in_the_words_of_the_query_is_told_from_the_query() -> None:
    judge = LabelledJudge({QUERY: {QUERY: 1.0, "no": 0.0}}, relevant=1)
    assert parse_ranking(replied(asked("answer-ranking", judge, [], ["no", QUERY])), 2, {1, 2}) == [1, 0]


def test_what_it_does_not_know_is_irrelevant() -> None:
    answer = asked("answer-ranking", perfect(), [], ["never seen", "an answer"])
    assert parse_ranking(replied(answer), 2, {1}) == [1, 0]
    unknown = asked("graded", perfect(), [], ["never seen"], query="never asked?")
    assert parse_grade(replied(unknown)) == Opinion("0")


def parsed(form: str, reply: Reply, shown: Passage) -> object:
    """What a reply of a form says, of two passages if it speaks of several."""
    parsers: dict[str, Callable[[], object]] = {
        "rlhn": lambda: parse_rlhn(reply, 2),
        "answer-snippet": lambda: parse_answer(reply, shown),
        "answer-ranking": lambda: parse_ranking(reply, 2, {1}),
        "graded": lambda: parse_grade(reply),
        "versus-positive": lambda: parse_versus(reply, shown),
    }
    return parsers[form]()


@pytest.mark.parametrize("form", FORMS)
def test_a_spoilt_reply_is_never_understood(form: str) -> None:
    texts = ["a good answer", "an answer"] if "max_candidates" in FORMS[form].settings else ["an answer"]
    positives = ["the best answer"] if FORMS[form].positives else []
    for seed in range(60):
        judge = perfect(malformed=1.0, seed=seed)
        reply = replied(asked(form, judge, positives, texts))
        found = parsed(form, reply, Passage("n", "", texts[0]))
        assert isinstance(found, Abstained), reply


def test_is_as_accurate_as_it_is_told_to_be_and_always_in_the_same_way() -> None:
    grades = {f"passage {n}": float(n % 2) for n in range(2000)}
    judge = LabelledJudge({QUERY: grades}, relevant=1, accuracy=0.9)
    right = sum((judge._grade(QUERY, text) is not None) == (grade >= 1) for text, grade in grades.items())
    assert 0.87 < right / 2000 < 0.93
    again = LabelledJudge({QUERY: grades}, relevant=1, accuracy=0.9)
    assert all(judge._grade(QUERY, text) == again._grade(QUERY, text) for text in grades)
