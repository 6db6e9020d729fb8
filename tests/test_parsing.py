"""A reply that is not wholly understood says nothing about any candidate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relabel.parsing import Abstained, parse_rlhn
from relabel.records import Reply
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
