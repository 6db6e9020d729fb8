"""A judge that knows the answers: human labels in the place of a model."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from itertools import pairwise
from typing import Any, NamedTuple

import orjson

from relabel.fence import ESCAPES
from relabel.forms import BETTER, EQUAL, FORMS, IRRELEVANT, WORSE
from relabel.testing.replies import json_reply, rlhn_reply, spoilt
from relabel.testing.server import Answer

_NUMBER = re.compile(r"\d+")
_FIRST_CANDIDATE = re.compile(r"^Doc \(1\)", re.MULTILINE)
_BLOCK = re.compile(r"<passage>\n(.*?)\n</passage>", re.DOTALL)
_SNIPPET = 240
"""Letters that it quotes of a passage at most."""


class _Shown(NamedTuple):
    """A passage in a prompt: where it stands, its number there, and the known text that it is, or is a part of."""

    at: int
    number: int
    text: str


class LabelledJudge:
    """A handler for a ReplyServer that answers each of the built-in kinds of prompt, and prompts of yours in the same
    forms, from human labels.

    `labels` are grades by query and passage text; a grade of `relevant` or more is relevant. It finds query and
    passages in the prompt by their text, and each passage's number by the rule that it is the last number before it.
    Of each passage it is right about the relevance with probability `accuracy`, always the same way; a share
    `malformed` of its replies is spoilt in one way or another. What it does not know is irrelevant, even a positive.
    Of the UMBRELA grades it gives 3 to what is best for a query, 2 to what else is relevant, and 0. A `confidence` is
    the probability that it gives its label's token where a request asks for `logprobs`.
    """

    def __init__(
        self,
        labels: Mapping[str, Mapping[str, float]],
        *,
        relevant: float,
        accuracy: float = 1.0,
        malformed: float = 0.0,
        latency: float = 0.0,
        confidence: float | None = None,
        seed: int = 0,
    ) -> None:
        self._labels = {_bare(query): dict(texts) for query, texts in labels.items()}
        self._relevant = relevant
        self._accuracy = accuracy
        self._malformed = malformed
        self._latency = latency
        self._confidence = confidence
        self._seed = seed

    def __call__(self, body: dict[str, Any]) -> Answer:
        """The answer to a request's body; a 400 to what is no prompt in a form that relabel knows."""
        system, prompt, *_ = [*(_bare(str(message["content"])) for message in body["messages"]), "", ""]
        form = next((name for name, form in FORMS.items() if all(words in system for words in form.words)), None)
        if form is None:
            return Answer(status=400, body={"error": {"message": f"no prompt in a known form ({', '.join(FORMS)})"}})
        right = self._right(form, self._query(prompt), prompt)
        if self._chance("malformed", orjson.dumps(body, option=orjson.OPT_SORT_KEYS)) < self._malformed:
            answer = spoilt(right, int(1e6 * self._chance("way", orjson.dumps(body["messages"]))))
        elif body.get("logprobs") and self._confidence is not None:
            answer = Answer(
                right, logprobs=_logprobs(right, form, self._confidence, int(body.get("top_logprobs") or 0))
            )
        else:
            answer = Answer(right)
        return replace(answer, latency=self._latency)

    def snippet(self, text: str) -> str:
        """What it quotes of a relevant passage: its beginning, in whole words."""
        text = text.strip()
        cut = max(text.rfind(" ", 0, _SNIPPET), text.rfind("\n", 0, _SNIPPET))
        return text if len(text) <= _SNIPPET else text[: cut if cut > 0 else _SNIPPET].strip()

    def _chance(self, about: str, *parts: bytes) -> float:
        digest = blake2b(f"{self._seed} {about}".encode(), digest_size=8)
        for part in parts:
            digest.update(b"|" + part)
        return int.from_bytes(digest.digest()) / (1 << 64)

    def _query(self, prompt: str) -> str:
        """The known query that stands in the prompt's material: of several the longest."""
        found = re.search(r"<query>\n(.*?)\n</query>", prompt, re.DOTALL)
        if found and found[1] in self._labels:
            return found[1]
        return max((query for query in self._labels if query in prompt), key=len, default="")

    def _grade(self, query: str, text: str) -> float | None:
        """The grade of a passage that it takes to be relevant, right or wrong; None for the others."""
        grade = self._labels.get(query, {}).get(text)
        relevant = grade is not None and grade >= self._relevant
        if self._chance("accuracy", query.encode(), text.encode()) >= self._accuracy:
            relevant = not relevant
        return (max(grade or 0.0, self._relevant)) if relevant else None

    def _shown(self, query: str, prompt: str) -> list[_Shown]:
        """The passages in the prompt, in order: whole texts, its own snippets, or windows of a text that hold its
        snippet. What stands within a longer one is a part of that, and no passage; nor is what stands in the query.
        """
        begin = max(0, prompt.find("</query>"))
        found: dict[int, tuple[int, str]] = {}
        for text in self._labels.get(query, {}):
            snippet = _bare(self.snippet(text))
            for said in {_bare(text), snippet}:
                start = prompt.find(f"\n{said}\n", begin) if said.strip() else -1
                while start >= 0:
                    if len(said) > found.get(start + 1, (0, ""))[0]:
                        found[start + 1] = (len(said), text)
                    start = prompt.find(f"\n{said}\n", start + 1)
            for block in _BLOCK.finditer(prompt, begin):
                if snippet and snippet in block[1] in _bare(text):
                    found.setdefault(block.start(1), (len(block[1]), text))
        shown: list[_Shown] = []
        end = 0
        for at in sorted(found):
            length, text = found[at]
            if at >= end:
                end = at + length
                number = _NUMBER.findall(prompt[:at])[-1:] or ["0"]
                shown.append(_Shown(at, int(number[0]), text))
        return shown

    def _right(self, form: str, query: str, prompt: str) -> str:
        shown = self._shown(query, prompt)
        if form == "answer-ranking":
            ranked = sorted(shown, key=lambda one: (-(self._grade(query, one.text) or 0.0), one.text))
            numbers = [one.number for one in ranked]
            return json_reply(ranking=[*numbers, *(n for n in _numbers(prompt) if n not in numbers)])
        positives, candidates = self._sides(form, shown, prompt)
        bar = max((grade for one in positives if (grade := self._grade(query, one.text)) is not None), default=0.0)
        if form == "rlhn":
            grades = {one.number: self._grade(query, one.text) for one in candidates}
            better = [number for number, grade in sorted(grades.items()) if grade is not None and grade >= bar]
            worse = [number for number, grade in sorted(grades.items()) if grade is not None and grade < bar]
            return rlhn_reply(better, worse)
        text = candidates[-1].text if candidates else ""
        most = max(self._labels.get(query, {}).values(), default=0.0)
        return self._pointwise(form, text, self._grade(query, text), bar, most)

    def _pointwise(self, form: str, text: str, grade: float | None, bar: float, most: float) -> str:
        if form == "answer-snippet":
            return json_reply(answer=None if grade is None else self.snippet(text))
        if form == "graded":
            return json_reply(grade=0 if grade is None else 3 if grade >= most else 2)
        if grade is None:
            return json_reply(verdict=IRRELEVANT, evidence="")
        verdict = BETTER if grade > bar else EQUAL if grade == bar else WORSE
        return json_reply(verdict=verdict, evidence=self.snippet(text))

    def _sides(self, form: str, shown: Sequence[_Shown], prompt: str) -> tuple[list[_Shown], list[_Shown]]:
        """Positives and candidates: where both are shown, the numbers begin anew with the first candidate."""
        if not FORMS[form].positives:
            return [], list(shown)
        starts = [found.start() for found in _FIRST_CANDIDATE.finditer(prompt)]
        outside = [at for at in starts if not any(one.at <= at < one.at + len(one.text) for one in shown)]
        if outside:
            first = sum(one.at < outside[0] for one in shown)
        else:
            pairs = enumerate(pairwise(shown), 1)
            first = next((nth for nth, (one, other) in pairs if other.number <= one.number), 0)
        return list(shown[:first]), list(shown[first:])


def _logprobs(reply: str, form: str, confidence: float, top: int) -> list[dict[str, Any]]:
    """The tokens of a JSON reply with a label, and their probabilities: what is left is shared by the other labels."""
    spelled = {"answer-snippet": ("null", '"')}.get(form, FORMS[form].labels)
    value = re.search(r':\s*"?', reply) if form == "versus-positive" else re.search(r":\s*", reply)
    if value is None or FORMS[form].properties is None or form == "answer-ranking":
        return []
    start = value.end()
    label = next(one for one in spelled if reply.startswith(one, start))
    share = (1 - confidence) / (len(spelled) - 1)
    chances = sorted(((confidence if one == label else share, one) for one in spelled), reverse=True)
    others = [_token(one, chance) for chance, one in chances[:top]]
    tokens = [_token(reply[:start], 1.0), _token(label, confidence), _token(reply[start + len(label) :], 1.0)]
    return [{**token, "top_logprobs": others if place == 1 else []} for place, token in enumerate(tokens)]


def _token(text: str, chance: float) -> dict[str, Any]:
    return {"token": text, "bytes": None, "logprob": math.log(max(chance, 1e-9))}


def _numbers(prompt: str) -> list[int]:
    """The numbers of all passages in the prompt, known or not."""
    found = [_NUMBER.findall(prompt[: block.start()])[-1:] for block in _BLOCK.finditer(prompt)]
    return [int(number) for numbers in found for number in numbers]


def _bare(text: str) -> str:
    """A text without what the fence of a prompt does to it."""
    for escape, letter in ESCAPES.items():
        text = text.replace(escape, letter)
    return text
