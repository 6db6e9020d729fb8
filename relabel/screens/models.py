"""Screens that ask a small model of our own machine: an embedder or a cross-encoder.

They ask once for each instance. The reply is not the vectors but what was measured between the texts, and it is stored
in the ledger like any other: another machine, another batch, another kernel change the last digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from relabel.config import ModelScreenSettings
from relabel.judges import EMPTY_TEXT, Found, has_text
from relabel.records import UNANSWERED, Asking, Call, Case, Instance, Passage, Reply, Request, Verdict
from relabel.screens.rules import CLEAR, CLOSE, labels

UNREADABLE = "unreadable"
"""The reason of a verdict where a reply holds no measures of so many texts."""

EMPTY_POSITIVES = "empty_positives"
"""The reason of a verdict on a candidate that has no positive with a text beside it."""

EMBEDDING = ("to_query", "to_positives", "to_others", "of_positives")
"""What an embedder measures: the cosine of a candidate with the query, with the nearest positive, with the mean of the
instance's other passages; and the greatest cosine of a positive with the query."""

CROSS_ENCODER = ("to_query", "of_positives")
"""What a cross-encoder measures: its score of a candidate for the query, and the greatest of a positive."""


class ModelScreen:
    """Holds what a model measured against the positives, as a tier's judge."""

    def __init__(self, tier: str, settings: ModelScreenSettings) -> None:
        self._tier = tier
        self._settings = settings
        self.name: str = settings.screen
        self.labels: Sequence[str] = (CLEAR, CLOSE)
        self.features: Sequence[str] = EMBEDDING if settings.screen == "embedding" else CROSS_ENCODER

    def judge(self, case: Case, kind: str, candidates: Sequence[int]) -> Asking[Found]:
        """Asks for all candidates at once: what they measure among themselves counts, too."""
        negatives = case.instance.negatives
        judged = [place for place in candidates if has_text(negatives[place])]
        if not any(map(has_text, case.instance.positives)):
            return Found(dict.fromkeys(candidates, self._abstain(EMPTY_POSITIVES)), {})
        found = dict.fromkeys(candidates, self._abstain(EMPTY_TEXT))
        if judged:
            request = self._request(case.instance, [negatives[place] for place in judged])
            (reply,) = yield [Call(request, self._tier, client_of(self._tier), self.name)]
            found |= zip(judged, self._verdicts(reply, request.key, len(judged)), strict=True)
        return Found(found, {})

    def _request(self, instance: Instance, candidates: Sequence[Passage]) -> Request:
        settings = self._settings
        positives = [one for one in instance.positives if has_text(one)]
        texts = [("query", instance.query)]
        texts += [("positive", text_of(one)) for one in positives]
        texts += [("candidate", text_of(one)) for one in candidates]
        messages = tuple({"role": role, "content": text} for role, text in texts)
        sampling = {"screen": settings.screen, "dtype": settings.dtype}
        return Request(settings.model, messages, sampling, model_revision=settings.revision)

    def _verdicts(self, reply: Reply | None, key: str, count: int) -> list[Verdict]:
        if reply is None:
            return [self._abstain(UNANSWERED, key)] * count
        measured = _measures(reply.text, self.features, count)
        if measured is None:
            return [self._abstain(UNREADABLE, key)] * count
        to_positives = self._settings.to == "positives"
        scores = [one["to_positives" if to_positives else "to_query"] for one in measured]
        yardstick = 1.0 if to_positives else measured[0]["of_positives"]
        said = labels(self._settings, scores, yardstick)
        return [
            Verdict(
                self._tier,
                self.name,
                self._settings.model,
                label,
                score=score,
                score_kind="similarity",
                signals=signals,
                key=key,
            )
            for label, score, signals in zip(said, scores, measured, strict=True)
        ]

    def _abstain(self, reason: str, key: str | None = None) -> Verdict:
        return Verdict(self._tier, self.name, self._settings.model, None, reason, key=key)


def client_of(tier: str) -> str:
    """The name of the client that answers the screen of a tier."""
    return f"screen:{tier}"


def text_of(passage: Passage) -> str:
    """What a model is shown of a passage."""
    return f"{passage.title} {passage.text}".strip()


def _measures(text: str, names: Sequence[str], count: int) -> list[dict[str, float]] | None:
    """What was measured of each candidate; None if the reply does not tell of so many."""
    try:
        columns: Any = orjson.loads(text)
        rows = [{name: column[place] for name, column in columns.items()} for place in range(count)]
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        return None
    whole = all(row.keys() == set(names) and all(isinstance(one, float) for one in row.values()) for row in rows)
    return rows if whole else None
