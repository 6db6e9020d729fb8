"""Reply text -> what it says of each passage, or the reason why it says nothing. Pure, and strict: a reply that is not
wholly understood says nothing about any candidate.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NoReturn

from relabel.confidence import label_mass
from relabel.forms import ANSWER, BETTER, FORMS, IRRELEVANT, NO_ANSWER, WORSE, Form
from relabel.grounding import locate
from relabel.records import Passage, Reply, ScoreKind
from relabel.text import well_formed

_VERDICT = re.compile(r"\s*<better>([^<]*)</better>[\s,]*<worse>([^<]*)</worse>\s*")
_LIST = re.compile(r"([^\[\]]*)\[([^\[\]]*)\][\s.,]*")
_THOUGHTS = re.compile("<(/?)(think|thinking|thought|reasoning|reflection|scratchpad|preference)>")
_DOC = re.compile(r"Doc \((0|[1-9][0-9]{0,5})\)")
_DIGIT = re.compile(r"\d")
_DENIALS = {
    BETTER: re.compile(r"\b(not|none|no|never|neither|worse|but|except)\b", re.IGNORECASE),
    WORSE: re.compile(r"\b(none|no|never|neither|irrelevant|not relevant|except)\b|^preferred", re.IGNORECASE),
}
_FINISHES = {"max_tokens": "length", "model_length": "length", "safety": "content_filter"}
"""Other servers' words for why a reply ended."""

_THINK_ENDS = re.compile(r"</think>", re.IGNORECASE)
_ANY_THINKING_ENDS = re.compile(r"</(?:think|thinking|thought|reasoning)>", re.IGNORECASE)
_CODE_FENCE = re.compile(r"\A```(?:json)?[ \t]*\n(.*)\n```\Z", re.DOTALL | re.IGNORECASE)
_FIRST_KEY = re.compile(r'\s*\{\s*"[^"\\]*"\s*:')
_SHOWN = 200
"""Letters of a faulty reply that an abstention quotes."""


REFUSED = "refused"
"""The reason where a server would not answer the request; what was found is what it said."""


@dataclass(frozen=True, slots=True)
class Abstained:
    """Why a reply gives no verdict: a `reason` that can be counted, and what was found."""

    reason: str
    found: str = ""


@dataclass(frozen=True, slots=True)
class Opinion:
    """What one reply says of one passage: a label, with how sure it is and what it quotes.

    `offset` is that of the evidence in the passage's text; None if the title says it.
    """

    label: str
    evidence: str | None = None
    offset: int | None = None
    score: float | None = None
    score_kind: ScoreKind | None = None
    outside: float | None = None


def unusable(reply: Reply) -> Abstained | None:
    """Why a reply cannot be parsed at all: refused, cut off, filtered, or empty."""
    if reply.status == "refused":
        return Abstained(REFUSED, reply.error or "")
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
    blocks = _verdict_of(reply.text[_thought(reply.text, _THINK_ENDS) :])
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


def _thought(text: str, ends: re.Pattern[str]) -> int:
    """Where the thinking ends that a reasoning model begins with; some servers swallow the tag that opens it."""
    end = ends.search(text)
    return end.end() if end else 0


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
    tags = Counter(_THOUGHTS.findall(text.lower()))
    return any(tags["", name] != tags["/", name] for _, name in tags)


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


def parse_answer(reply: Reply, passage: Passage) -> Opinion | Abstained:
    """Whether the passage holds an answer, by the verbatim span that the reply quotes from it.

    Source: ARHN, arXiv 2604.11092, stage 1. A span that the passage does not hold is no evidence: "ungrounded".
    """
    found = _object(reply, "answer-snippet")
    if isinstance(found, Abstained):
        return found
    answer = found.said["answer"]
    if answer is None:
        return _sure(reply, found, NO_ANSWER, Opinion(NO_ANSWER))
    if not isinstance(answer, str):
        return _malformed(reply)
    return _grounded(reply, found, ANSWER, answer, passage)


def parse_grade(reply: Reply) -> Opinion | Abstained:
    """The grade, "0" to "3", on the scale of UMBRELA (arXiv 2406.06519)."""
    found = _object(reply, "graded")
    if isinstance(found, Abstained):
        return found
    grade = found.said["grade"]
    if type(grade) is not int or str(grade) not in FORMS["graded"].labels:
        return _malformed(reply)
    return _sure(reply, found, str(grade), Opinion(str(grade)))


def parse_versus(reply: Reply, passage: Passage) -> Opinion | Abstained:
    """How the passage compares with the positives: "better", "equal", "worse", or "irrelevant".

    Evidence that is quoted must stand in the passage; of an irrelevant one none is asked.
    """
    found = _object(reply, "versus-positive")
    if isinstance(found, Abstained):
        return found
    label, evidence = found.said["verdict"], found.said["evidence"]
    if not isinstance(label, str) or label not in FORMS["versus-positive"].labels or not isinstance(evidence, str):
        return _malformed(reply)
    if label == IRRELEVANT or not evidence.strip():
        return _sure(reply, found, label, Opinion(label))
    return _grounded(reply, found, label, evidence, passage)


def parse_ranking(reply: Reply, shown: int, needed: Collection[int]) -> list[int | None] | Abstained:
    """The place of each shown passage, the first passage's first: 0 for the most direct answer, None if it is left out.

    `needed` are the numbers, from 1, of the passages (the positives) without which the ranking says nothing. Source:
    ARHN, arXiv 2604.11092, stage 2; nothing that the model left out is put in.
    """
    found = _object(reply, "answer-ranking")
    if isinstance(found, Abstained):
        return found
    ranking = found.said["ranking"]
    if not isinstance(ranking, list) or any(type(number) is not int for number in ranking):
        return _malformed(reply)
    places: list[int | None] = [None] * shown
    for place, number in enumerate(ranking):
        if not 1 <= number <= shown:
            return Abstained("unknown_id", f"{number} of {shown}"[:_SHOWN])
        if places[number - 1] is not None:
            return Abstained("repeated_id", str(number))
        places[number - 1] = place
    if missing := [number for number in sorted(needed) if places[number - 1] is None]:
        return Abstained("no_positive", f"the positive stands under {missing[0]}")
    return places


@dataclass(frozen=True, slots=True)
class _Found:
    """A reply's JSON object of a form, and where in the reply's text its first value begins."""

    form: Form
    said: dict[str, Any]
    value: int | None


def _object(reply: Reply, form: str) -> _Found | Abstained:
    """The one JSON object that a reply consists of, thinking and a code fence aside, if it has the form's keys."""
    if (reason := unusable(reply)) is not None:
        return reason
    properties = FORMS[form].properties or {}
    start, content = json_of(reply.text)
    said = read_object(content, properties)
    if said is None:
        return _malformed(reply)
    first = _FIRST_KEY.match(content)
    ordered = first is not None and next(iter(said)) == next(iter(properties))
    return _Found(FORMS[form], said, start + first.end() if first is not None and ordered else None)


def json_of(text: str) -> tuple[int, str]:
    """Where in a reply its JSON begins, and the JSON: what is left without thinking and without a code fence."""
    start = 0 if text.lstrip().startswith(("{", "```")) else _thought(text, _ANY_THINKING_ENDS)
    rest = text[start:]
    start += len(rest) - len(rest.lstrip())
    fenced = _CODE_FENCE.match(rest.strip())
    return (start + fenced.start(1), fenced[1]) if fenced else (start, rest.strip())


def read_object(content: str, keys: Collection[str]) -> dict[str, Any] | None:
    """A JSON object with just these keys, each once; None for anything else."""
    try:
        said = json.loads(content, object_pairs_hook=_once, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) and said.keys() == set(keys) else None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    said = dict(pairs)
    if len(said) < len(pairs):
        raise ValueError("a key stands twice")
    return said


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _malformed(reply: Reply) -> Abstained:
    _, content = json_of(reply.text)
    return Abstained("malformed", well_formed(" ".join(content.split())[:_SHOWN]))


def _grounded(reply: Reply, found: _Found, label: str, span: str, passage: Passage) -> Opinion | Abstained:
    """The opinion that rests on a quoted span, if the passage holds it."""
    if (place := locate(span, passage.text)) is not None:
        return _sure(reply, found, label, Opinion(label, place[1], place[0]))
    if (place := locate(span, passage.title)) is not None:
        return _sure(reply, found, label, Opinion(label, place[1]))
    return Abstained("ungrounded", well_formed(span[:_SHOWN]))


def _spellings(labels: Collection[str]) -> dict[str, str]:
    """How a JSON value begins for each label."""
    if ANSWER in labels:
        return {ANSWER: '"', NO_ANSWER: "null"}
    return {label: label if label.isdigit() else f'"{label}"' for label in labels}


def _sure(reply: Reply, found: _Found, label: str, opinion: Opinion) -> Opinion:
    """The opinion with the probability of its label, where the server gives those of tokens."""
    if reply.logprobs is None or found.value is None:
        return opinion
    mass = label_mass(reply.logprobs, reply.text, found.value, _spellings(found.form.labels), label)
    if mass is None:
        return opinion
    return Opinion(label, opinion.evidence, opinion.offset, mass.score, "logprobs", mass.outside)
