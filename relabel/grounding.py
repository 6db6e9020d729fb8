"""Is a span that a model quotes really in the passage, and where?

Compared after unicode and whitespace normalisation: compatibility forms, typographic quotes and dashes, and white
space are made alike, invisible characters are left out; case, words and their order must be the same.
"""

from __future__ import annotations

import unicodedata

_ALIKE = str.maketrans("‘’‚‛ʼ′`´“”„‟″«»‐‑‒–—―−", "''''''''\"\"\"\"\"\"\"-------")
_ESCAPES = {"&lt;": "<", "&lsqb;": "["}
"""What the fence of a prompt makes of a delimiter: a model may quote either."""


def locate(span: str, text: str) -> tuple[int, str] | None:
    """The 0-based offset in `text`, in characters, of a quoted span, and the span as the text has it.

    None if the text does not hold it, or only within longer words.
    """
    span = span.strip()
    if not span:
        return None
    start = text.find(span)
    while start >= 0:
        if _whole(text, start, start + len(span)):
            return start, span
        start = text.find(span, start + 1)
    needle, _ = _plain(span)
    needle = needle.strip()
    if not needle:
        return None
    hay, places = _plain(text)
    start = hay.find(needle)
    while start >= 0:
        first, last = places[start], places[start + len(needle) - 1]
        end = places[start + len(needle)] if start + len(needle) < len(places) else len(text)
        if _whole(text, first, last + 1):
            return first, text[first : max(end, last + 1)].rstrip()
        start = hay.find(needle, start + 1)
    return None


def _whole(text: str, start: int, end: int) -> bool:
    """Whether neither edge of a span cuts through a word or a number."""
    return not (start > 0 and _joined(text[start - 1], text[start])) and not (
        end < len(text) and _joined(text[end - 1], text[end])
    )


def _joined(before: str, after: str) -> bool:
    """Whether two neighbours belong to one word. Scripts without case do not put spaces between words."""
    return _is_part(before) and _is_part(after)


def _is_part(letter: str) -> bool:
    return letter.isdigit() or letter.lower() != letter.upper()


def _plain(text: str) -> tuple[str, list[int]]:
    """A text in its normal form, and for each of its characters the place in the text that it comes from."""
    letters: list[str] = []
    places: list[int] = []
    at = 0
    while at < len(text):
        escape = next((one for one in _ESCAPES if text.startswith(one, at)), "") if text[at] == "&" else ""
        letter = _ESCAPES.get(escape, text[at])
        for plain in unicodedata.normalize("NFKD", letter).translate(_ALIKE):
            if plain.isspace():
                if letters and letters[-1] != " ":
                    letters.append(" ")
                    places.append(at)
            elif unicodedata.category(plain) != "Cf":
                letters.append(plain)
                places.append(at)
        at += len(escape) or 1
    return "".join(letters), places
