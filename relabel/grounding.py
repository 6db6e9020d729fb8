"""Is a span that a model quotes really in the passage, and where?

Compared after unicode and whitespace normalisation: compatibility forms, typographic quotes and dashes, and white
space are made alike, invisible characters are left out; case, words and their order must be the same.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

from relabel.fence import ESCAPES

_ALIKE = str.maketrans("‘’‚‛ʼ′`´“”„‟″«»‐‑‒–—―−", "''''''''\"\"\"\"\"\"\"-------")
_JOINER = "\u200d"
"""Makes one picture of the two characters beside it."""

_EFFORT = 10_000_000
"""Letters that are compared before a span is given up: only a degenerate one takes more."""


def locate(span: str, text: str) -> tuple[int, str] | None:
    """The 0-based offset in `text`, in characters, of a quoted span, and the span as the text has it.

    None if the text does not hold it, or only within longer words.
    """
    span = span.strip()
    for start in _places_of(span, text):
        if _whole(text, start, start + len(span)):
            return start, span
    needle, _ = _plain(span)
    needle = needle.strip()
    hay, places = _plain(text)
    places.append(len(text))
    for start in _places_of(needle, hay):
        first, end = places[start], places[start + len(needle)]
        last = places[start + len(needle) - 1]
        cut = last == end or (start > 0 and places[start - 1] == first)  # a letter's normal form is longer than it
        if not cut and _whole(text, first, last + 1):
            return first, text[first:end].rstrip()
    return None


def _places_of(span: str, text: str) -> Iterator[int]:
    """Where a span stands in a text, one place after the other."""
    start = text.find(span) if span else -1
    for _ in range(_EFFORT // max(len(span), 1) + 1):
        if start < 0:
            return
        yield start
        start = text.find(span, start + 1)


def _whole(text: str, start: int, end: int) -> bool:
    """Whether neither edge of a span cuts through a letter, a word or a number.

    Only scripts with upper and lower case are held to words: many others write no spaces, or attach particles.
    """
    before, after = text[max(0, start - 2) : start], text[end : end + 2]
    return not _cut(before, text[start : start + 2]) and not _cut(text[max(start, end - 2) : end], after)


def _cut(before: str, after: str) -> bool:
    """Whether an edge between these letters, two on each side where there are so many, parts what belongs together."""
    if not before or not after:
        return False
    left, right = before[-1], after[0]
    if right == _JOINER or left == _JOINER or unicodedata.category(right).startswith("M"):
        return True
    if _is_part(left) and _is_part(right):
        return True
    if right.isdigit():  # 3.42, 1,000 and -5, but not 3-5
        return (left in ".,·" and before[:-1].isdigit()) or (left in "-−" and not before[:-1].isalnum())
    return left.isdigit() and right in ".,·" and after[1:].isdigit()


def _is_part(letter: str) -> bool:
    return letter.isnumeric() or letter == "_" or letter.lower() != letter.upper()


def _plain(text: str) -> tuple[str, list[int]]:
    """A text in its normal form, and for each of its characters the place in the text that it comes from."""
    letters: list[str] = []
    places: list[int] = []
    at = 0
    while at < len(text):
        escape = next((one for one in ESCAPES if text.startswith(one, at)), "") if text[at] == "&" else ""
        for plain in _normal(ESCAPES.get(escape, text[at])):
            if plain.isspace():
                if letters and letters[-1] != " ":
                    letters.append(" ")
                    places.append(at)
            elif unicodedata.category(plain) != "Cf":
                letters.append(plain)
                places.append(at)
        at += len(escape) or 1
    return "".join(letters), places


def _normal(letter: str) -> str:
    """A letter's normal form. Fractions and raised digits stay what they are: 5½ is not 51/2, nor is 10² a 102."""
    form = letter if unicodedata.category(letter) == "No" else unicodedata.normalize("NFKD", letter)
    return form.translate(_ALIKE)
