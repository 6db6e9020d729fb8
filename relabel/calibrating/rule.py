"""When the strong judge is asked: a model, its threshold, and how near to that a candidate must lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from relabel.calibrating.agreement import Judged, kappa_of
from relabel.calibrating.fitting import (
    Flags,
    Floats,
    Model,
    check_enough,
    cross_validated,
    folds,
    relevant_of,
    values_of,
)
from relabel.calibrating.pairs import Pair

_THRESHOLDS = 200
_LIKE = 1e-7
"""Probabilities that differ by no more are the same."""


class Chooser(Protocol):
    """Chooses the probability from which on a candidate is called a false negative."""

    def threshold(self, judged: Judged, probability: Floats) -> float:
        """The threshold for pairs with these probabilities."""

    @property
    def fixed(self) -> bool:
        """Whether it stands whatever the probabilities are."""


class BestAgreement:
    """Chooses the threshold that agrees best with people, by Cohen's kappa."""

    fixed = False

    def threshold(self, judged: Judged, probability: Floats) -> float:
        """The first of the best, of 200 quantiles."""
        tried = np.unique(np.quantile(probability, np.linspace(0, 1, _THRESHOLDS)))
        best = np.argmax([kappa_of(judged, probability >= threshold) for threshold in tried])
        return float(tried[best])


class Rule:
    """A model with its threshold, and how far from that the probabilities of the pairs lie that it was fitted on."""

    def __init__(
        self, pairs: Sequence[Pair], names: Sequence[str], chooser: Chooser, *, combined: bool = False
    ) -> None:
        """The threshold is chosen by predictions for queries that their model has not seen, and then, unless it is
        fixed, put where it parts as large a share of the model's own.
        """
        values = values_of(pairs, names, combined=combined)
        self.model = Model(names, values, relevant_of(pairs))
        own, unseen = self.model.probability(values), cross_validated(pairs, names, combined=combined)
        self.threshold = chooser.threshold(Judged.of(pairs), unseen)
        if not chooser.fixed:
            self.threshold = _settled(self.threshold, unseen, own)
        self._distances = np.sort(np.abs(own - self.threshold))

    def doubt(self, probability: Floats) -> Floats:
        """For each probability the share of the fitted pairs that are nearer to the threshold, from 0 to 1; of those
        that are as near, half: like pairs are in doubt together or not at all.
        """
        distances = np.abs(probability - self.threshold)
        sides = [np.searchsorted(self._distances, np.round(distances, 9) + edge) for edge in (-_LIKE, _LIKE)]
        found: Floats = (sides[0] + sides[1]) / 2 / len(self._distances)
        return found

    def band(self, share: float) -> tuple[float, float]:
        """The probabilities around the threshold of which no more than this share is in doubt; as many as can be."""
        if share >= 1:
            return 0.0, 1.0
        within = self._distances[self.doubt(self.threshold + self._distances) < share]
        beyond = self._distances[len(within) :]
        if not len(within):
            return self.threshold, self.threshold
        width = float(within[-1] + beyond[0]) / 2 if len(beyond) else float(within[-1])
        return max(0.0, round(self.threshold - width, 6)), min(1.0, round(self.threshold + width, 6))


@dataclass(frozen=True)
class Predicted:
    """P(false negative) of pairs, each with the threshold that it is held against and how much it is in doubt, by rules
    that have not seen its query.
    """

    probability: Floats
    threshold: Floats
    doubt: Floats

    def unsure(self, share: float) -> Flags:
        """What goes to the strong judge: about this share, and as near to it as like pairs stay together."""
        found: Flags = (self.doubt < share) | (share >= 1)
        return found

    def found(self, unsure: Flags, strong: Flags) -> Flags:
        """The decisions: the strong evidence where it is asked, else whether P is above the threshold."""
        decisions: Flags = np.where(unsure, strong, self.alone)
        return decisions

    @property
    def alone(self) -> Flags:
        """The decisions without any strong call."""
        decisions: Flags = self.probability >= self.threshold
        return decisions


def predicted(pairs: Sequence[Pair], names: Sequence[str], chooser: Chooser, *, combined: bool = False) -> Predicted:
    """Each pair by a rule learnt from pairs of other queries alone. Raises InputError."""
    check_enough(pairs)
    values = values_of(pairs, names, combined=combined)
    found = Predicted(*(np.zeros(len(pairs)) for _ in range(3)))
    for train, test in folds(pairs):
        rule = Rule([pairs[place] for place in train], names, chooser, combined=combined)
        found.probability[test] = probability = rule.model.probability(values[test])
        found.threshold[test] = rule.threshold
        found.doubt[test] = rule.doubt(probability)
    return found


def _settled(threshold: float, chosen_by: Floats, own: Floats) -> float:
    """The place between two of a model's own probabilities that has as large a share of them above it as the threshold
    has of those it was chosen by; of places that part them alike the one nearest to one half, so that what is in more
    doubt is nearer to it.
    """
    distinct = np.concatenate([[0.0], np.unique(np.round(own, 9)), [1.0]])
    low, high = distinct[:-1], distinct[1:]
    margin = (high - low) / 10
    between = np.clip(0.5, low + margin, high - margin)
    above = 1 - np.searchsorted(np.sort(own), between) / len(own)
    return float(between[int(np.argmin(np.abs(above - (chosen_by >= threshold).mean())))])
