"""Untrusted text in a prompt: unable to end its fence, to open another, or to pose as a token of a chat template.

What looks like one of the prompt's tags or like a chat token loses its first letter to an escape; all else is verbatim.
"Looks like" is meant for a reader's eyes: full-width letters and brackets, white space and invisible characters between
make no difference.
"""

from __future__ import annotations

import re
import unicodedata

ESCAPES = {"&lt;": "<", "&lsqb;": "["}
"""What becomes of a delimiter's first letter; a model that quotes the passage may write either."""

_TAG = re.compile(r"</?([a-z][a-z0-9_-]*)>", re.IGNORECASE)
_OPENERS, _SQUARE = "<＜﹤‹〈\u2329⟨❮❬❰", "[［〔【"
_OPENING = re.compile(
    rf"[{_OPENERS}](?=[^\x21-\x7e]|[/|A-Za-z]|<[^\x21-\x7e/sS]*[/sS])|[\{_SQUARE}](?=[^\x21-\x7e]|[/A-Za-z])"
)
"""The first letter of what may look like a delimiter, by the letter that follows."""

_CHAT_TAGS = (
    *("s", "bos", "eos", "pad", "unk", "sop", "eop", "think", "thinking"),
    *("start_of_turn", "end_of_turn", "im_start", "im_end", "tool_call", "tool_response"),
)
"""Names that chat templates put in angle brackets, besides those between bars (`<|…|>`) and `<<SYS>>`."""

_CHAT_WORD = re.compile(r" ?/? ?(?:inst|system_prompt|available_tools|tool_calls|tool_results|gmask) ?[\]〕】]")
"""What they put in square brackets: [INST], [/INST] and their kind."""

_CLOSING = "[>›〉\u232a⟩❯❭❱]"

_UNSEEN = ("Cf", "Mn", "Me", "Cn")
"""Categories of characters that are not seen, or seen as part of the one before."""

_FILLERS = "\u115f\u1160\u2800\u3164\uffa0"
"""Letters by category that nobody sees."""

_REACH = 64
"""A delimiter is longer than no more than so many letters, white space and invisible characters aside."""

_HIDDEN = 256
"""So many invisible characters after a bracket hide something."""


class Fence:
    """Escapes look-alikes of the tags that a prompt's words use."""

    def __init__(self, words: str) -> None:
        names = sorted({name.lower() for name in _TAG.findall(words)} | {*_CHAT_TAGS}, key=len, reverse=True)
        spelled = "|".join(map(re.escape, names))
        self._tag = re.compile(
            rf" ?/ ?(?:{spelled})(?![a-z0-9_-])"
            rf"| ?(?:{spelled})(?: ?/? ?{_CLOSING}| [a-z-]+ ?=|$)"
            rf"| ?\|[^|]{{1,48}}\| ?{_CLOSING}"
            rf"|< ?/? ?sys ?{_CLOSING}"
        )

    def __call__(self, text: str) -> str:
        """The text as a prompt may show it."""
        if "<" not in text and "[" not in text and text.isascii():
            return text
        return _OPENING.sub(lambda found: self._opened(found, text), text)

    def _opened(self, found: re.Match[str], text: str) -> str:
        square = found[0] in _SQUARE
        if (_CHAT_WORD if square else self._tag).match(_seen(text, found.end())) is None:
            return found[0]
        return "&lsqb;" if square else "&lt;"


def _seen(text: str, start: int) -> str:
    """What a reader sees from a place on: in compatible forms and lower case, without what is invisible, each run of
    white space as one space, as far as a delimiter may reach.
    """
    seen: list[str] = []
    hidden = 0
    for at in range(start, len(text)):
        letter = text[at]
        if not letter.isascii():
            letter = unicodedata.normalize("NFKC", letter)
            if letter[0] in _FILLERS or unicodedata.category(letter[0]) in _UNSEEN:
                hidden += 1
                if hidden > _HIDDEN:
                    return "|hidden|>"
                continue
        if letter.isspace() or unicodedata.category(letter[0]) == "Cc":
            if not seen or seen[-1] != " ":
                seen.append(" ")
            continue
        seen.append(letter.lower())
        if len(seen) >= _REACH:
            break
    return "".join(seen)
