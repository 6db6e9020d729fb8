"""A reply that is not wholly understood says nothing about any candidate."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relabel.forms import FORMS
from relabel.parsing import (
    Abstained,
    Opinion,
    json_of,
    parse_answer,
    parse_grade,
    parse_ranking,
    parse_rlhn,
    parse_versus,
)
from relabel.records import Passage, Reply
from relabel.testing import rlhn_reply


def verdict(better: str, worse: str) -> str:
    return f"<verdict><better>{better}</better><worse>{worse}</worse></verdict>"


def parse(text: str, candidates: int = 5) -> list[str] | Abstained:
    return parse_rlhn(Reply("ok", text, "stop"), candidates)


def test_labels_each_candidate_by_the_list_it_stands_in() -> None:
    assert parse(rlhn_reply(better=[2], worse=[1, 5])) == ["worse", "better", "irrelevant", "irrelevant", "worse"]


def test_two_empty_lists_make_every_candidate_irrelevant() -> None:
    assert parse(rlhn_reply()) == ["irrelevant"] * 5


def test_words_may_stand_before_a_list() -> None:
    text = verdict(" Preferred over ground truth: [Doc (1)] ", "\nRelevant but not preferred:  [] ")
    assert parse(text) == ["better", *["irrelevant"] * 4]


def test_a_code_fence_around_the_reply_does_no_harm() -> None:
    assert parse("```\n" + rlhn_reply(better=[1]) + "\n```") == ["better", *["irrelevant"] * 4]


def test_thinking_of_a_reasoning_model_is_not_the_verdict() -> None:
    thinking = f"<think>perhaps {verdict('[Doc (1)]', '[]')}</think>"
    assert parse(thinking + rlhn_reply(worse=[2])) == ["irrelevant", "worse", *["irrelevant"] * 3]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty_reply"),
        ("  \n", "empty_reply"),
        ("I cannot help with that.", "no_verdict"),
        ("<verdict><better>[Doc (1)]</better>", "no_verdict"),
        ("<verdict></verdict>", "malformed"),
        ("<verdict><better>[]</better></verdict>", "malformed"),
        ("<think>First draft: " + verdict("[Doc (1)]", "[]") + " no, wrong, because", "malformed"),
        ("<think>First draft: " + verdict("[Doc (1)]", "[]"), "malformed"),
        ("<Thinking>First draft: " + verdict("[Doc (1)]", "[]"), "malformed"),
        ("<reasoning>First draft: " + verdict("[Doc (1)]", "[]"), "malformed"),
        ("<thinking>draft " + verdict("[Doc (1)]", "[]") + " no</thinking>", "malformed"),
        ("Example of the form: " + verdict("[Doc (1)]", "[]") + " I cannot judge these.", "malformed"),
        ("<verdict><better>[]</better><worse>[]</worse> Correction: Doc (1) is better.</verdict>", "malformed"),
        ("<verdict><worse><better>x: []</better> Doc one is relevant</worse></verdict>", "malformed"),
        ("<verdict><worse>[]</worse><better>[]</better></verdict>", "malformed"),
        ("<VERDICT><better>[Doc (2)]</better></VERDICT>" + verdict("[]", "[]"), "malformed"),
        (verdict("None of [Doc (1)] is better", "[]"), "malformed"),
        (verdict("Documents one and two []", "[]"), "malformed"),
        (verdict("Not preferred over ground truth: [Doc (1)]", "[]"), "malformed"),
        (verdict("Worse than ground truth: [Doc (1)]", "[]"), "malformed"),
        (verdict("[]", "not relevant at all: [Doc (1)]"), "malformed"),
        (verdict("[]", "Preferred over ground truth: [Doc (2)]"), "malformed"),
        ("<verdict>" * 20_000, "no_verdict"),
        ("<verdict>" * 20_000 + "</verdict>", "malformed"),
        (verdict("[Doc (6)]", "[]"), "unknown_id"),
        (verdict("[Doc (0)]", "[]"), "unknown_id"),
        (verdict("[Doc (1), Doc (1)]", "[]"), "repeated_id"),
        (verdict("[Doc (1)]", "[Doc (1)]"), "contradiction"),
        (verdict("[Doc (-1)]", "[]"), "malformed"),
        (verdict("[Doc (1) Doc (2)]", "[]"), "malformed"),
        (verdict("[1, 2]", "[]"), "malformed"),
        (verdict("[Doc (1), ]", "[]"), "malformed"),
        (verdict("[Doc (١)]", "[]"), "malformed"),
        (verdict("Doc (1) []", "[]"), "malformed"),
        (verdict("[] but Doc (2) is close", "[]"), "malformed"),
        (verdict("[Doc (1)] [Doc (2)]", "[]"), "malformed"),
        (verdict("", "[]"), "malformed"),
        (verdict("none", "[]"), "malformed"),
        (verdict("[]", "[]") + verdict("[Doc (1)]", "[]"), "malformed"),
        (f"<thinking>{verdict('[Doc (1)]', '[]')}</thinking>" + rlhn_reply(), "malformed"),
        ("<verdict>" + rlhn_reply(), "malformed"),
        (verdict("[]</better><better>[Doc (1)]", "[]"), "malformed"),
    ],
)
def test_abstains_with_a_reason_where_anything_is_in_doubt(text: str, reason: str) -> None:
    found = parse(text)
    assert isinstance(found, Abstained)
    assert found.reason == reason


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply("ok", rlhn_reply(), "length"), "length"),
        (Reply("ok", rlhn_reply(), "content_filter"), "content_filter"),
        (Reply("ok", rlhn_reply(), "MAX_TOKENS"), "length"),
        (Reply("ok", rlhn_reply(), "abort"), "abort"),
        (Reply("ok", "", "stop", refusal="I will not."), "refusal"),
        (Reply("refused", error="context_length_exceeded"), "refused"),
    ],
)
def test_a_reply_that_was_cut_off_filtered_or_refused_is_never_a_verdict(reply: Reply, reason: str) -> None:
    found = parse_rlhn(reply, 5)
    assert isinstance(found, Abstained)
    assert found.reason == reason


@given(
    st.text() | st.text(alphabet="<>/[]Doc(1), \nverdictbetterworse").map(lambda s: verdict(s, s)), st.integers(1, 9)
)
def test_no_text_makes_it_raise_or_answer_for_other_candidates(text: str, candidates: int) -> None:
    found = parse(text, candidates)
    assert isinstance(found, Abstained) or len(found) == candidates


@given(st.data(), st.integers(1, 40))
def test_reads_back_whatever_a_well_formed_reply_says(data: st.DataObject, candidates: int) -> None:
    labels = data.draw(
        st.lists(st.sampled_from(["better", "worse", "irrelevant"]), min_size=candidates, max_size=candidates)
    )
    numbers = {label: [n for n, found in enumerate(labels, 1) if found == label] for label in set(labels)}
    assert parse(rlhn_reply(numbers.get("better", []), numbers.get("worse", [])), candidates) == labels


@given(st.integers(0, 10_000))
def test_a_truncated_reply_never_says_that_there_is_no_false_negative(cut: int) -> None:
    whole = rlhn_reply(better=[2], worse=[1])
    assert cut >= len(whole.rstrip()) or isinstance(parse(whole[:cut]), Abstained)


PASSAGE = Passage("d", "On Tea", "Tea is steeped for three minutes. It cools.")


def replied(text: str, **changes: Any) -> Reply:
    return Reply("ok", text, "stop", **changes)


def opinion(form: str, reply: Reply) -> Opinion | Abstained:
    """What a reply of a pointwise form says of the passage."""
    if form == "graded":
        return parse_grade(reply)
    return (parse_answer if form == "answer-snippet" else parse_versus)(reply, PASSAGE)


def read(form: str, text: str) -> object:
    """What a JSON reply of a form says: a label, the ranking of three passages of which the first is the positive, or
    the reason why it says nothing.
    """
    reply = replied(text)
    found = parse_ranking(reply, 3, {1}) if form == "answer-ranking" else opinion(form, reply)
    if isinstance(found, Opinion):
        return found.label
    return found.reason if isinstance(found, Abstained) else found


@pytest.mark.parametrize(
    ("form", "text", "says"),
    [
        ("answer-snippet", '{"answer": "three minutes"}', "answer"),
        ("answer-snippet", '{"answer": null}', "no_answer"),
        ("answer-snippet", '{"answer": "On Tea"}', "answer"),
        ("answer-snippet", '{"answer": "five minutes"}', "ungrounded"),
        ("answer-snippet", '{"answer": "Three minutes"}', "ungrounded"),
        ("answer-snippet", '{"answer": "NO_ANSWER"}', "ungrounded"),
        ("answer-snippet", '{"answer": ""}', "ungrounded"),
        ("answer-snippet", '{"answer": "\\ud800"}', "ungrounded"),
        ("answer-snippet", '{"answer": 3}', "malformed"),
        ("answer-snippet", '{"answer": ["three minutes"]}', "malformed"),
        ("answer-snippet", "null", "malformed"),
        ("answer-snippet", "three minutes", "malformed"),
        ("graded", '{"grade": 3}', "3"),
        ("graded", '{"grade": 0}', "0"),
        ("graded", '{"grade": 4}', "malformed"),
        ("graded", '{"grade": -1}', "malformed"),
        ("graded", '{"grade": 2.0}', "malformed"),
        ("graded", '{"grade": true}', "malformed"),
        ("graded", '{"grade": "2"}', "malformed"),
        ("graded", '{"grade": NaN}', "malformed"),
        ("graded", '{"grade": ' + "9" * 5000 + "}", "malformed"),
        ("graded", "the passage, from 2019, has 3 items", "malformed"),
        ("graded", "3", "malformed"),
        ("graded", '{"grade": 3, "grade": 0}', "malformed"),
        ("graded", '{"grade": 3, "reason": "it fits"}', "malformed"),
        ("graded", '{"grade": 3} {"grade": 0}', "malformed"),
        ("graded", 'Sure: {"grade": 3}', "malformed"),
        ("graded", '```json\n{"grade": 3}\n```', "3"),
        ("graded", '```\n{"grade": 3}\n```\n', "3"),
        ("graded", '```json\n{"grade": 3}\n```\n```json\n{"grade": 0}\n```', "malformed"),
        ("graded", '<think>maybe {"grade": 0}</think>\n{"grade": 3}', "3"),
        ("graded", 'maybe {"grade": 0}</think>{"grade": 3}', "3"),
        ("graded", '<Reasoning>maybe {"grade": 0}</Reasoning>{"grade": 3}', "3"),
        ("graded", '<think>{"grade": 3}', "malformed"),
        ("graded", '<think>a</think><think>b</think>{"grade": 3}', "malformed"),
        ("graded", "[" * 100_000, "malformed"),
        ("versus-positive", '{"verdict": "better", "evidence": "It cools."}', "better"),
        ("versus-positive", '{"evidence": "It cools.", "verdict": "equal"}', "equal"),
        ("versus-positive", '{"verdict": "worse", "evidence": ""}', "worse"),
        ("versus-positive", '{"verdict": "irrelevant", "evidence": "made up"}', "irrelevant"),
        ("versus-positive", '{"verdict": "better", "evidence": "made up"}', "ungrounded"),
        ("versus-positive", '{"verdict": "Better", "evidence": ""}', "malformed"),
        ("versus-positive", '{"verdict": "better"}', "malformed"),
        ("versus-positive", '{"verdict": null, "evidence": ""}', "malformed"),
        ("versus-positive", '{"verdict": [], "evidence": ""}', "malformed"),
        ("versus-positive", '{"verdict": "worse", "evidence": null}', "malformed"),
        ("answer-ranking", '{"ranking": [2, 1, 3]}', [1, 0, 2]),
        ("answer-ranking", '{"ranking": [2, 1]}', [1, 0, None]),
        ("answer-ranking", '{"ranking": [2, 3]}', "no_positive"),
        ("answer-ranking", '{"ranking": []}', "no_positive"),
        ("answer-ranking", '{"ranking": [1, 2, 2]}', "repeated_id"),
        ("answer-ranking", '{"ranking": [1, 2, 4]}', "unknown_id"),
        ("answer-ranking", '{"ranking": [0, 1, 2]}', "unknown_id"),
        ("answer-ranking", '{"ranking": ["2", "1", "3"]}', "malformed"),
        ("answer-ranking", '{"ranking": [2, true, 3]}', "malformed"),
        ("answer-ranking", '{"ranking": "2, 1, 3"}', "malformed"),
        ("answer-ranking", '{"ranking": [[2], [1]]}', "malformed"),
        ("answer-ranking", "2 > 1 > 3", "malformed"),
    ],
)
def test_a_json_reply_says_just_what_its_form_allows(form: str, text: str, says: object) -> None:
    assert read(form, text) == says


def test_evidence_comes_with_its_offset_in_the_passage() -> None:
    assert parse_answer(replied('{"answer": "three minutes"}'), PASSAGE) == Opinion("answer", "three minutes", 19)
    assert parse_answer(replied('{"answer": "On Tea"}'), PASSAGE) == Opinion("answer", "On Tea", None)


def test_thinking_that_comes_apart_from_the_text_is_not_read() -> None:
    assert parse_grade(Reply("ok", "", "stop", reasoning='{"grade": 3}')) == Abstained("empty_reply")


JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["better", "It cools."]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["answer", "grade", "ranking", "verdict", "evidence", "x"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@given(
    st.sampled_from(["answer-snippet", "graded", "versus-positive", "answer-ranking"]),
    st.text() | JSON_LIKE.map(json.dumps) | st.text(alphabet='{}[]":,0123 answerkingdvtco'),
    st.sampled_from(["stop", "length", "content_filter", None]),
)
def test_no_json_reply_makes_a_parser_raise_or_say_what_was_not_asked(form: str, text: str, finish: str | None) -> None:
    reply = Reply("ok", text, finish)
    if form == "answer-ranking":
        places = parse_ranking(reply, 3, {2})
        if not isinstance(places, Abstained):
            ranked = [place for place in places if place is not None]
            assert len(places) == 3
            assert places[1] is not None
            assert sorted(ranked) == list(range(len(ranked)))
        return
    found = opinion(form, reply)
    if isinstance(found, Opinion):
        assert finish in ("stop", None)
        assert found.label in FORMS[form].labels
        assert found.evidence is None or found.evidence in PASSAGE.text + PASSAGE.title
        assert json.loads(json_of(text)[1]).keys() == set(FORMS[form].properties or ())


@given(st.permutations(range(1, 8)), st.integers(0, 60))
def test_a_ranking_that_is_cut_off_never_ranks(order: list[int], cut: int) -> None:
    whole = json.dumps({"ranking": order})
    assert cut >= len(whole) or isinstance(parse_ranking(replied(whole[:cut]), 7, {1}), Abstained)
