"""How sure a model was, by the probabilities of the tokens that it might have written instead."""

from __future__ import annotations

from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relabel.confidence import Mass, label_mass
from relabel.parsing import Opinion, parse_answer, parse_grade, parse_versus
from relabel.records import Passage, Reply, Token

GRADES = {grade: grade for grade in "0123"}
PASSAGE = Passage("d", "", "it is here")


def token(text: str, share: float = 1.0, **others: float) -> Token:
    """A token with its probability, and those of others in its place."""
    return Token(text, log(share), ((text, log(share)), *((other, log(p)) for other, p in others.items())))


def replied(*tokens: Token, before: str = "") -> Reply:
    """A reply of these tokens; the server takes `before` out of its text."""
    text = "".join(one.text for one in tokens).removeprefix(before)
    return Reply("ok", text, "stop", logprobs=tokens)


def measured(opinion: object) -> tuple[str, float | None, float | None]:
    assert isinstance(opinion, Opinion)
    return opinion.label, opinion.score, opinion.outside


def test_the_score_is_the_share_of_the_mass_on_the_allowed_labels_and_the_rest_is_recorded() -> None:
    reply = replied(token('{"grade":'), token(" "), token("2", 0.6, **{"3": 0.2, "seven": 0.1}), token("}"))
    assert measured(parse_grade(reply)) == ("2", 0.75, 0.2)


def test_a_label_that_begins_amid_a_token_is_told_by_what_follows_the_colon() -> None:
    reply = replied(token('{"answer'), token('":"', 0.7, **{'":': 0.3}), token("here"), token('"}'))
    assert measured(parse_answer(reply, PASSAGE)) == ("answer", 1.0, 0.3)
    reply = replied(token('{"answer'), token('":', 0.9, **{'":"': 0.1}), token(" null", 0.5, **{' "': 0.5}), token("}"))
    assert measured(parse_answer(reply, PASSAGE)) == ("no_answer", 0.45, 0.0)


def test_alternatives_that_only_begin_a_label_count_for_it() -> None:
    reply = replied(
        token('{"verdict":'),
        token(' "'),
        token("ir", 0.5, b=0.2, better=0.2, none=0.1),
        token('relevant", "evidence": ""}'),
    )
    assert measured(parse_versus(reply, PASSAGE)) == ("irrelevant", 0.555556, 0.1)


def test_thinking_that_the_server_has_taken_out_of_the_text_does_not_mislead() -> None:
    thought = token('{"grade": 0} or {"grade": 3}?</think>', 0.9)
    reply = replied(thought, token('{"grade": '), token("3", 0.8, **{"0": 0.2}), token("}"), before=thought.text)
    assert measured(parse_grade(reply)) == ("3", 0.8, 0.0)


def test_a_fenced_reply_is_measured_like_a_plain_one() -> None:
    reply = replied(token('```json\n{"grade": '), token("3", 0.8, **{"0": 0.2}), token("}\n```"))
    assert measured(parse_grade(reply)) == ("3", 0.8, 0.0)


@pytest.mark.parametrize(
    "tokens",
    [
        (token('{"grade": '), token("0", 0.6, **{"3": 0.4}), token("}")),
        (token('{"grade": '), token("3"), token("}"), token('{"grade": '), token("0"), token("}")),
    ],
)
def test_tokens_that_spell_another_value_measure_nothing(tokens: tuple[Token, ...]) -> None:
    assert measured(parse_grade(Reply("ok", '{"grade": 3}', "stop", logprobs=tokens))) == ("3", None, None)


def test_tokens_of_another_text_measure_nothing() -> None:
    reply = Reply("ok", '{"grade": 3}', "stop", logprobs=(token("something"), token(" else")))
    assert measured(parse_grade(reply)) == ("3", None, None)
    assert measured(parse_grade(Reply("ok", '{"grade": 3}', "stop"))) == ("3", None, None)


@given(
    st.lists(
        st.tuples(st.text(alphabet='{"grade": 0123}x', max_size=4), st.floats(-20, 1), st.sampled_from("0123x")),
        max_size=8,
    ),
    st.integers(0, 12),
)
def test_a_score_is_a_probability_whatever_the_tokens(raw: list[tuple[str, float, str]], value: int) -> None:
    tokens = [Token(text, logprob, ((other, logprob),)) for text, logprob, other in raw]
    text = "".join(one.text for one in tokens)
    mass = label_mass(tokens, text, value, GRADES, "2")
    assert mass is None or (0 <= mass.score <= 1 and 0 <= mass.outside <= 1)


def test_certainty_is_one() -> None:
    tokens = [token('{"grade": '), token("1"), token("}")]
    assert label_mass(tokens, '{"grade": 1}', 9, GRADES, "1") == Mass(1.0, 0.0)
    assert label_mass([], "", 0, GRADES, "1") is None
    with pytest.raises(KeyError):
        label_mass(tokens, '{"grade": 1}', 9, GRADES, "7")
