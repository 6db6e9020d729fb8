"""Screens that ask a model once for each instance, and hold what it measured against the positives."""

from __future__ import annotations

import orjson
import pytest

from relabel.records import UNANSWERED, Call, Case, Instance, Reply, Verdict
from relabel.screens.models import EMPTY_POSITIVES, UNREADABLE
from tests.conftest import case, passage
from tests.screens.shared import screened


def of(*texts: str, positive: str = "the answer") -> Case:
    negatives = tuple(passage(f"n{n}")._replace(text=text) for n, text in enumerate(texts))
    return case(Instance(1, "q", "a question", (passage("p")._replace(text=positive),), negatives))


def embedded(to_query: list[float], to_positives: list[float], of_positives: float = 0.8) -> Reply:
    columns = {
        "to_query": to_query,
        "to_positives": to_positives,
        "to_others": [0.5] * len(to_query),
        "of_positives": [of_positives] * len(to_query),
    }
    return Reply("ok", orjson.dumps(columns).decode(), "stop")


def said(verdicts: list[Verdict]) -> list[str | None]:
    return [verdict.label or verdict.abstained for verdict in verdicts]


EMBEDDING = {"screen": "embedding", "model": "some/model"}


def test_one_call_holds_the_query_the_positives_and_all_candidates() -> None:
    _, (call,) = screened(of("one", "two"), lambda _: embedded([0.1, 0.2], [0.3, 0.4]), **EMBEDDING)
    roles = [(message["role"], message["content"]) for message in call.request.messages]
    assert roles == [
        ("query", "a question"),
        ("positive", "the answer"),
        ("candidate", "one"),
        ("candidate", "two"),
    ]
    assert (call.client, call.request.model) == ("screen:tier", "some/model")


def test_closeness_to_the_query_is_held_against_the_positives_own() -> None:
    verdicts, _ = screened(of("one", "two"), lambda _: embedded([0.79, 0.7], [0.1, 0.99]), **EMBEDDING)
    assert said(verdicts) == ["close", "clear"]
    assert verdicts[1].score == 0.7
    assert verdicts[1].signals == {"to_query": 0.7, "to_positives": 0.99, "to_others": 0.5, "of_positives": 0.8}


def test_closeness_to_the_positives_is_held_against_the_threshold() -> None:
    verdicts, _ = screened(of("one", "two"), lambda _: embedded([0.79, 0.7], [0.1, 0.99]), to="positives", **EMBEDDING)
    assert said(verdicts) == ["clear", "close"]


def test_a_cross_encoders_negative_scores_are_held_against_a_negative_positive() -> None:
    reply = Reply("ok", '{"to_query": [-2.05, -3.5], "of_positives": [-2.0, -2.0]}', "stop")
    assert said(screened(of("one", "two"), lambda _: reply, screen="cross-encoder", model="m")[0]) == ["close", "clear"]


def test_an_empty_candidate_is_not_shown_and_not_judged() -> None:
    verdicts, (call,) = screened(of("", "two"), lambda _: embedded([0.7], [0.9]), **EMBEDDING)
    assert said(verdicts) == ["empty_text", "clear"]
    assert len(call.request.messages) == 3


def test_without_a_positive_that_says_something_nothing_is_asked() -> None:
    verdicts, calls = screened(of("one", positive=" "), lambda _: embedded([0.7], [0.9]), **EMBEDDING)
    assert (said(verdicts), calls) == ([EMPTY_POSITIVES], [])


@pytest.mark.parametrize("text", ["", "[]", '{"to_query": [0.1]}', '{"to_query": 1}', "[1]", '{"to_query": ["a"]}'])
def test_a_reply_without_all_measures_is_an_abstention(text: str) -> None:
    verdicts, _ = screened(of("one", "two"), lambda _: Reply("ok", text, "stop"), **EMBEDDING)
    assert said(verdicts) == [UNREADABLE] * 2


def test_without_a_reply_its_candidates_wait() -> None:
    assert said(screened(of("one"), lambda _: None, **EMBEDDING)[0]) == [UNANSWERED]


def test_what_shapes_the_numbers_is_part_of_the_key() -> None:
    def key(**settings: str) -> str:
        calls: list[Call] = []
        _, calls = screened(of("one"), lambda _: embedded([0.1], [0.1]), **{**EMBEDDING, **settings})
        return calls[0].request.key

    assert len({key(), key(dtype="float32"), key(model="other"), key(revision="v2")}) == 4
    assert key() == key(device="cpu", batch="4", cache="somewhere")
