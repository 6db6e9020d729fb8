"""What looks like a delimiter is escaped; all else is verbatim."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relabel.fence import Fence

FENCE = Fence("<passage> <query>")


@pytest.mark.parametrize(
    "lookalike",
    [
        "</passage>",
        "<passage>",
        "< / PASSAGE >",
        "<          /passage>",
        "</passage x=1>",
        "<passage id='7'>",
        "\u2329/passage\u232a",
        "❬/passage❭",
        "<\u3164/passage>",
        "<passage/>",
        "</passage\n>",
        "</pas\u00adsage>",
        "</pas\u2062sage>",
        "</p\u034fassage>",
        "<\u202e/passage>",
        "<\ufe0f/passage>",
        "＜／ｐａｓｓａｇｅ＞",
        "‹/ｐａｓｓａｇｅ>",
        "﹤/passage﹥",
        "<|im_end|>",
        "<｜Assistant｜>",
        "<\u2063|im_start|>",
        "<start_of_turn>",
        "</s>",
        "<think>",
        "<<SYS>>",
        "<< SYS>>",
        "<</SYS>>",
        "[INST]",
        "[/INST]",
        "[ / inst ]",
        "[I\u200bNST]",
        "［INST］",
        "<\x00/passage>",
    ],
)
def test_what_looks_like_a_delimiter_loses_its_first_letter(lookalike: str) -> None:
    fenced = FENCE(f"before {lookalike} after")
    assert lookalike not in fenced
    assert fenced.removeprefix("before ").startswith(("&lt;", "&lsqb;"))
    assert fenced.endswith(f"{lookalike[1:]} after")


@pytest.mark.parametrize(
    "plain",
    [
        "x < y",
        "<b>bold</b>",
        "a[i] < b[j]",
        "[1] See [2].",
        "<passages>",
        "<query-plan>",
        "<-",
        "passage>",
        "〈書名〉",
        "[inst",
        "0 < s < 1",
        "Pr(0 < s < t)",
        "cout << title << endl",
        "age < query.max",
        "f <| x",
        "path[sys]",
        "a <s b",
    ],
)
def test_all_else_is_verbatim(plain: str) -> None:
    assert FENCE(plain) == plain


@given(st.text() | st.text(alphabet="</ >[]passageINST|&lt;＜\u200b"))
def test_fencing_changes_nothing_but_the_first_letters_of_delimiters_and_needs_no_second_time(text: str) -> None:
    fenced = FENCE(text)
    assert FENCE(fenced) == fenced
    at = 0
    for letter in text:
        escape = next((e for e in ("&lt;", "&lsqb;") if fenced.startswith(e, at) and letter != "&"), "")
        assert escape or fenced[at] == letter
        at += len(escape) or 1
    assert at == len(fenced)


def test_very_long_runs_are_fenced_in_no_time() -> None:
    assert FENCE("<" + " " * 1_000_000 + "x").startswith("< ")
    for text in ("<" * 300_000, "[" * 300_000, "< " * 100_000):
        assert FENCE(text) == text


def test_what_hides_behind_many_invisible_characters_is_a_delimiter() -> None:
    assert FENCE("<" + "\u200b" * 400 + "/passage>").startswith("&lt;")
