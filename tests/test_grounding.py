"""A quoted span is evidence only if the passage holds it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relabel.fence import Fence
from relabel.grounding import locate

TEXT = "He said:  “it’s 42”,\nthen left — in 1990. See <passage> & [INST] ﬁnally, naïve café."


@pytest.mark.parametrize(
    ("span", "found"),
    [
        ("then left", "then left"),
        ("it's 42", "it’s 42"),
        ('said: "it\'s 42", then', "said:  “it’s 42”,\nthen"),
        ("left - in 1990", "left — in 1990"),
        ("finally", "ﬁnally"),
        ("nai\u0308ve cafe\u0301", "naïve café"),
        ("See &lt;passage> &", "See <passage> &"),
        ("See <passage> &", "See <passage> &"),
        ("&lsqb;INST]", "[INST]"),
        ("  then\n\nleft ", "then left"),
        ("the\u00adn le\u200bft", "then left"),
    ],
)
def test_a_span_is_found_where_it_stands_whatever_its_quotes_spaces_and_forms(span: str, found: str) -> None:
    place = locate(span, TEXT)
    assert place is not None
    offset, evidence = place
    assert TEXT[offset : offset + len(evidence)] == evidence == found


@pytest.mark.parametrize(
    "span",
    [
        "",
        "  ",
        "\u200b",
        "Then left",
        "left then",
        "then left quickly",
        "90",
        "hen left",
        "he sai",
        "42 then",
        "caf",
        "cafe",
        "naive",
    ],
)
def test_a_span_that_the_text_does_not_hold_in_whole_words_is_not_found(span: str) -> None:
    assert locate(span, TEXT) is None


@pytest.mark.parametrize(
    ("span", "text"),
    [
        ("나는 바", "나는 밥을 먹는다"),
        ("51", "Take 5½ tablets"),
        ("51/2", "5½"),
        ("1", "½ cup"),
        ("102", "10² m"),
        ("1", "①"),
    ],
)
def test_a_part_of_a_letter_is_no_span_and_a_fraction_no_other_number(span: str, text: str) -> None:
    assert locate(span, text) is None


@pytest.mark.parametrize(
    ("span", "text"),
    [
        ("42", "about 3.42 kg"),
        ("3", "about 3.42 kg"),
        ("000", "1,000 people"),
        ("1", "1,000 people"),
        ("5", "at -5 degrees"),
        ("5", "5½ tablets"),
        ("foo", "the foo_bar"),
        ("क", "कि"),
        ("👨", "the 👨\u200d👩\u200d👧 family"),
    ],
)
def test_a_part_of_a_number_or_of_a_cluster_is_no_span(span: str, text: str) -> None:
    assert locate(span, text) is None


@pytest.mark.parametrize(
    ("span", "text"),
    [
        ("John", "John's book"),
        ("5", "pages 3-5."),
        ("3.42", "about 3.42."),
        ("1999", "in 1999, then"),
        ("서울", "수도는 서울은 크다"),
        ("c'est", "oui, c'est ça"),
        ("eau", "l'eau"),
        ("he", "the " * 120 + "and he said"),
        ("4", "14 " * 101 + "4"),
    ],
)
def test_a_whole_word_is_found_beside_marks_and_behind_many_longer_ones(span: str, text: str) -> None:
    assert locate(span, text) is not None


def test_a_degenerate_quote_of_a_repetitive_passage_takes_no_time() -> None:
    assert locate("a" * 5_000, "b" + "a" * 250_000 + "b") is None


def test_a_whole_word_is_found_behind_a_longer_one_that_holds_it() -> None:
    assert locate("art", "partly an art") == (10, "art")


def test_scripts_without_spaces_have_no_words_to_cut_through() -> None:
    assert locate("東京", "首都は東京です") == (3, "東京")


@given(st.text(), st.integers(0, 40), st.integers(0, 40))
def test_what_is_found_is_a_part_of_the_text(text: str, start: int, length: int) -> None:
    place = locate(text[start : start + length], text)
    if place is not None:
        assert text[place[0] : place[0] + len(place[1])] == place[1] != ""


@given(st.text(), st.text())
def test_no_span_and_no_text_make_it_raise(span: str, text: str) -> None:
    locate(span, text)


@given(
    st.lists(st.sampled_from(["a", "Wörter", "<passage>", "[INST]", "<|im_end|>", "x < y", "&lt;", "“so”"]), min_size=1)
)
def test_whatever_a_model_copies_from_a_fenced_passage_is_found_in_the_passage(words: list[str]) -> None:
    text = " ".join(words)
    place = locate(Fence("<passage>")(text), text)
    assert place is not None
