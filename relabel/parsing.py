"""Reply text -> labels, or the reason why there are none. Pure, and strict: a reply that is not wholly understood
says nothing about any candidate.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from relabel.records import Reply

BETTER, WORSE, IRRELEVANT = "better", "worse", "irrelevant"
RLHN_LABELS = (BETTER, WORSE, IRRELEVANT)

_VERDICT = re.compile(r"\s*<better>([^<]*)</better>[\s,]*<worse>([^<]*)</worse>\s*")
_LIST = re.compile(r"([^\[\]]*)\[([^\[\]]*)\][\s.,]*")
_DOC = re.compile(r"Doc \((0|[1-9][0-9]{0,5})\)")
_DIGIT = re.compile(r"\d")
_DENIALS = {
    BETTER: re.compile(r"\b(not|none|no|never|neither|worse|but|except)\b", re.IGNORECASE),
    WORSE: re.compile(r"\b(none|no|never|neither|irrelevant|not relevant|except)\b|^preferred", re.IGNORECASE),
}
_FINISHES = {"max_tokens": "length", "model_length": "length", "safety": "content_filter"}
"""Other servers' words for why a reply ended."""

_THINKING = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Abstained:
    """Why a reply gives no verdict: a `reason` that can be counted, and what was found."""

    reason: str
    found: str = ""


def unusable(reply: Reply) -> Abstained | None:
    """Why a reply cannot be parsed at all: refused, cut off, filtered, or empty."""
    if reply.status == "refused":
        return Abstained("refused", reply.error or "")
    finish = (reply.finish_reason or "stop").lower()
    finish = _FINISHES.get(finish, finish)
    if finish in ("length", "content_filter", "abort", "error", "tool_calls", "function_call"):
        return Abstained(finish)
    if reply.refusal:
        return Abstained("refusal", reply.refusal)
    if not reply.text.strip():
        return Abstained("empty_reply")
    return None


def parse_rlhn(reply: Reply, candidates: int) -> list[str] | Abstained:
    """The label of each of the candidates, Doc (1) first: "better" (than or equal to the ground truth), "worse" or
    "irrelevant".

    Source: RLHN, arXiv 2505.16967, with every doubt made an abstention.
    """
    if (reason := unusable(reply)) is not None:
        return reason
    blocks = _verdict_of(_THINKING.sub("", reply.text, count=1))
    if isinstance(blocks, Abstained):
        return blocks
    labels = [IRRELEVANT] * candidates
    for label, block in zip((BETTER, WORSE), blocks, strict=True):
        numbers = _documents(block, _DENIALS[label])
        if isinstance(numbers, Abstained):
            return numbers
        for number in numbers:
            if not 1 <= number <= candidates:
                return Abstained("unknown_id", f"Doc ({number}) of {candidates}")
            if labels[number - 1] != IRRELEVANT:
                twice = labels[number - 1] == label
                return Abstained("repeated_id" if twice else "contradiction", f"Doc ({number})")
            labels[number - 1] = label
    return labels


def _verdict_of(text: str) -> tuple[str, str] | Abstained:
    """What stands in <better> and <worse> of the reply's one verdict, which ends it and is no part of its thinking."""
    lowered = text.lower()
    opened, closed = lowered.count("<verdict>"), lowered.count("</verdict>")
    if not opened or not closed:
        return Abstained("no_verdict")
    if opened > 1 or closed > 1:
        return Abstained("malformed", f"{opened} verdicts begun, {closed} ended")
    before, _, rest = text.partition("<verdict>")
    verdict, _, after = rest.partition("</verdict>")
    if after.strip().strip("`") or _unclosed(before) or _unclosed(after):
        return Abstained("malformed", "the verdict is not the end of the reply")
    found = _VERDICT.fullmatch(verdict)
    if found is None:
        return Abstained("malformed", " ".join(verdict.split())[:80])
    return found[1], found[2]


def _unclosed(text: str) -> bool:
    """Whether thinking begins in a text that does not end there."""
    return any(text.count(f"<{tag}>") != text.count(f"</{tag}>") for tag in ("think", "thinking", "preference"))


def _documents(block: str, denial: re.Pattern[str]) -> list[int] | Abstained:
    """The numbers in a block's one bracketed list.

    Words may stand before it, if they name no document, lead up to it (with a colon, or by naming the ground truth)
    and do not deny what the tag says.
    """
    found = _LIST.fullmatch(block)
    words = found[1].strip() if found else ""
    if (
        found is None
        or _DIGIT.search(words)
        or denial.search(words)
        or not (words.endswith(":") or "ground truth" in words.lower() or not words)
    ):
        return Abstained("malformed", " ".join(block.split())[:80])
    items = [item.strip() for item in found[2].split(",")] if found[2].strip() else []
    numbers = [_DOC.fullmatch(item) for item in items]
    if None in numbers:
        return Abstained("malformed", found[2].strip()[:80])
    return [int(number[1]) for number in numbers if number]
