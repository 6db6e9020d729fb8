"""Judges that need no model: they look at the words alone.

A screen says what it found ("duplicate", "near-duplicate", "close") or "clear". "clear" is no proof of a true
negative; it only says that this screen found nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from rapidfuzz import fuzz, utils

from relabel.config import ScreenSettings
from relabel.judges import Found
from relabel.records import Asking, Case, Instance, Passage, Verdict

CLEAR = "clear"


class Screen:
    """One of the screens below, by name, as a tier's judge."""

    def __init__(self, tier: str, settings: ScreenSettings) -> None:
        self._tier = tier
        self.name: str = settings.screen
        self._threshold = settings.threshold
        self._label, self._score = _SCREENS[settings.screen]
        self.labels: Sequence[str] = (self._label, CLEAR)

    def judge(self, case: Case, kind: str, candidates: Sequence[int]) -> Asking[Found]:
        """Asks nobody."""
        return Found(self._verdicts(case.instance, candidates), {})
        yield []

    def _verdicts(self, instance: Instance, candidates: Sequence[int]) -> dict[int, Verdict]:
        verdicts = {}
        for place in candidates:
            score = self._score(instance, instance.negatives[place])
            label = self._label if score >= self._threshold else CLEAR
            verdicts[place] = Verdict(
                self._tier, self.name, None, label, score=round(score, 6), score_kind="similarity"
            )
        return verdicts


def exact(instance: Instance, candidate: Passage) -> float:
    """1.0 if the candidate is one of the positives, white space aside; else 0.0."""
    words = _words(candidate)
    return 1.0 if any(words == _words(positive) for positive in instance.positives) else 0.0


def similarity(instance: Instance, candidate: Passage) -> float:
    """How alike the candidate and the nearest positive are, letter by letter, in [0, 1].

    The normalised InDel similarity: symmetric, so that a sentence within a long passage is not a duplicate of it.
    """
    text = " ".join(_words(candidate))
    return max(fuzz.ratio(text, " ".join(_words(positive))) for positive in instance.positives) / 100


def lexical_share(instance: Instance, candidate: Passage) -> float:
    """The candidate's lexical closeness to the query, as a share of the closest positive's.

    A share of 0.95 or more is suspicious: the positive-aware rule of NV-Retriever (arXiv 2407.15831, "TopK-PercPos"),
    here with the overlap of words in the place of an embedding's cosine.
    """
    yardstick = max(_closeness(instance.query, positive) for positive in instance.positives)
    return _closeness(instance.query, candidate) / yardstick if yardstick else 0.0


def _closeness(query: str, passage: Passage) -> float:
    return fuzz.token_set_ratio(query, f"{passage.title} {passage.text}", processor=utils.default_process) / 100


def _words(passage: Passage) -> list[str]:
    return f"{passage.title} {passage.text}".split()


_SCREENS = {
    "exact-duplicate": ("duplicate", exact),
    "near-duplicate": ("near-duplicate", similarity),
    "lexical": ("close", lexical_share),
}
