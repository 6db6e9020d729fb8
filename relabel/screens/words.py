"""Screens that look at the words alone, and one that takes the scores which the mining left in the data."""

from __future__ import annotations

from collections.abc import Sequence

from rapidfuzz import fuzz, utils

from relabel.config import WordScreenSettings
from relabel.judges import Found
from relabel.records import Asking, Case, Instance, Passage, Verdict
from relabel.screens.rules import CLEAR, CLOSE, labels

NO_SCORE = "no_score"
"""The reason of a verdict on a candidate that the data has no score for, or none for any of its positives."""

_SAYS = {"exact-duplicate": "duplicate", "near-duplicate": "near-duplicate"}


class WordScreen:
    """One of the screens below, by name, as a tier's judge."""

    def __init__(self, tier: str, settings: WordScreenSettings) -> None:
        self._tier = tier
        self._settings = settings
        self.name: str = settings.screen
        self._label = _SAYS.get(settings.screen, CLOSE)
        self.labels: Sequence[str] = (CLEAR, self._label)
        self.features: Sequence[str] = ("score",) if settings.screen in _SAYS else ("score", "of_positives")

    def judge(self, case: Case, kind: str, candidates: Sequence[int]) -> Asking[Found]:
        """Asks nobody."""
        passages = [case.instance.negatives[place] for place in candidates]
        return Found(dict(zip(candidates, self._verdicts(case.instance, passages), strict=True)), {})
        yield []

    def _verdicts(self, instance: Instance, passages: Sequence[Passage]) -> list[Verdict]:
        if self.name == "mined":
            return self._mined(instance, passages)
        if self.name == "lexical":
            scores = [closeness(instance.query, passage) for passage in passages]
            yardstick = max(closeness(instance.query, positive) for positive in instance.positives)
            return self._close(scores, yardstick)
        measure = exact if self.name == "exact-duplicate" else similarity
        scores = measure(instance.positives, passages)
        least = self._settings.limit
        return [self._verdict(self._label if score >= least else CLEAR, score) for score in scores]

    def _mined(self, instance: Instance, passages: Sequence[Passage]) -> list[Verdict]:
        known = [passage.score for passage in instance.positives if passage.score is not None]
        scores = [passage.score for passage in passages if passage.score is not None]
        if not known and self._settings.by != "score":
            scores = []
        said = iter(self._close(scores, max(known, default=None)))
        unknown = Verdict(self._tier, self.name, None, None, NO_SCORE)
        return [next(said) if passage.score is not None and scores else unknown for passage in passages]

    def _close(self, scores: Sequence[float], yardstick: float | None) -> list[Verdict]:
        said = labels(self._settings, scores, yardstick)
        return [self._verdict(label, score, yardstick) for label, score in zip(said, scores, strict=True)]

    def _verdict(self, label: str, score: float, yardstick: float | None = None) -> Verdict:
        signals = None if yardstick is None else {"of_positives": round(yardstick, 6)}
        found = round(score, 6)
        return Verdict(self._tier, self.name, None, label, score=found, score_kind="similarity", signals=signals)


def exact(positives: Sequence[Passage], candidates: Sequence[Passage]) -> list[float]:
    """1.0 for a candidate that is one of the positives, white space aside; else 0.0."""
    known = {_words(positive) for positive in positives}
    return [1.0 if _words(candidate) in known else 0.0 for candidate in candidates]


def similarity(positives: Sequence[Passage], candidates: Sequence[Passage]) -> list[float]:
    """How alike each candidate and the nearest positive are, letter by letter, in [0, 1].

    The normalised InDel similarity: symmetric, so that a sentence within a long passage is not a duplicate of it.
    """
    known = [_words(positive) for positive in positives]
    return [max(fuzz.ratio(words, one) for one in known) / 100 for words in map(_words, candidates)]


def closeness(query: str, passage: Passage) -> float:
    """How much of the query's words a passage holds, whatever their order, in [0, 1]."""
    return fuzz.token_set_ratio(query, f"{passage.title} {passage.text}", processor=utils.default_process) / 100


def _words(passage: Passage) -> str:
    return " ".join(f"{passage.title} {passage.text}".split())
