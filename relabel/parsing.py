"""Reply text -> labels, or the reason why there are none. Pure, and strict: a reply that is not wholly understood
says nothing about any candidate.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from relabel.records import Reply

BETTER, WORSE, IRRELEVANT = "better", "worse", "irrelevant"
RLHN_LABELS = (BETTER, WORSE, IRRELEVANT)

_BLOCKS = {name: re.compile(rf"<{name}>(.*?)</{name}>", re.DOTALL) for name in ("verdict", BETTER, WORSE)}
_TAGS = {name: re.compile(rf"</?{name}>") for name in _BLOCKS}
_LIST = re.compile(r"([^\[\]]*)\[([^\[\]]*)\]([^\[\]]*)")
_DOC = re.compile(r"Doc \((0|[1-9][0-9]{0,5})\)")
_DIGIT = re.compile(r"\d")
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
    if reply.finish_reason in ("length", "content_filter"):
        return Abstained(reply.finish_reason)
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
    text = _THINKING.sub("", reply.text, count=1)
    verdict = _only(text, "verdict")
    if isinstance(verdict, Abstained):
        return verdict
    labels = [IRRELEVANT] * candidates
    for label in (BETTER, WORSE):
        block = _only(verdict, label)
        numbers = block if isinstance(block, Abstained) else _documents(block)
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


def _only(text: str, tag: str) -> str | Abstained:
    """What stands between the one <tag> and its one </tag>."""
    found = _BLOCKS[tag].findall(text)
    if len(found) == 1 and len(_TAGS[tag].findall(text)) == 2:
        return str(found[0])
    return Abstained("no_verdict" if not found else "malformed", f"<{tag}> found {len(found)} times")


def _documents(block: str) -> list[int] | Abstained:
    """The numbers in a block's one bracketed list, which may follow some words that name no document."""
    found = _LIST.fullmatch(block)
    if found is None or _DIGIT.search(found[1] + found[3]):
        return Abstained("malformed", block.strip()[:80])
    items = [item.strip() for item in found[2].split(",")] if found[2].strip() else []
    numbers = [_DOC.fullmatch(item) for item in items]
    if None in numbers:
        return Abstained("malformed", found[2].strip()[:80])
    return [int(number[1]) for number in numbers if number]
