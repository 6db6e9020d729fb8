"""Untrusted text is printed, not obeyed."""

from __future__ import annotations

import pytest

from relabel.text import printable, without_credentials


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("é 日本 🙂", "é 日本 🙂"),
        ("two\nlines", "two\nlines"),
        ("\x1b[31mred", "\\u001b[31mred"),
        ("\x07\r\x9b", "\\u0007\\u000d\\u009b"),
        ("a\u202eb", "a\\u202eb"),
        ("\u2028", "\\u2028"),
    ],
)
def test_control_and_direction_characters_are_shown_as_escapes(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://me:secret@host/v1", "http://***@host/v1"),
        ("ftp://me:se@cret@host", "ftp://***@host"),
        ("http://host/a@b", "http://host/a@b"),
    ],
)
def test_a_url_is_shown_without_its_credentials(url: str, shown: str) -> None:
    assert without_credentials(url) == shown
