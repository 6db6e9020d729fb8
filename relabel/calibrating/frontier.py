"""What escalating more or less would come to: agreement with people against calls of the strong judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

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

RESAMPLES = 1000
SHARES = tuple(round(0.05 * step, 2) for step in range(21))
_THRESHOLDS = 200
_METRICS = ("kappa", "precision", "recall", "f1")


Chooser = Callable[["Judged", Floats], float]
"""Chooses the probability from which on a candidate is called a false negative."""


@dataclass(frozen=True)
class Judged:
    """Pairs that people have judged: the number of each one's query, and whether they call it relevant."""

    query: npt.NDArray[np.int64]
    relevant: Flags

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> Judged:
        """The pairs' queries, numbered, and labels."""
        _, numbers = np.unique([pair.query_id for pair in pairs], return_inverse=True)
        return cls(numbers.astype(np.int64), relevant_of(pairs))

    def counts(self, found: Flags) -> npt.NDArray[np.int64]:
        """True and false positives, false and true negatives, a row for each query."""
        kinds = (found & self.relevant, found & ~self.relevant, ~found & self.relevant, ~found & ~self.relevant)
        return np.stack([np.bincount(self.query, kind).astype(np.int64) for kind in kinds], axis=1)


def metrics(counts: npt.NDArray[Any]) -> dict[str, Any]:
    """Cohen's kappa, precision, recall and F1 of (…, 4) counts; 0 where there is nothing to divide by."""
    tp, fp, fn, tn = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    total = tp + fp + fn + tn
    agreed = (tp + tn) / total
    chance = ((tp + fp) * (tp + fn) + (fn + tn) * (fp + tn)) / total**2
    return {
        "kappa": _ratio(agreed - chance, 1 - chance),
        "precision": _ratio(tp, tp + fp),
        "recall": _ratio(tp, tp + fn),
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
    }


def measured(judged: Judged, found: Flags) -> dict[str, Any]:
    """The metrics of decisions, each with its 95 % interval by a bootstrap over queries."""
    counts = judged.counts(found)
    whole, resampled = metrics(counts.sum(axis=0)), metrics(_resampled(counts))
    row: dict[str, Any] = {name: round(float(whole[name]), 4) for name in _METRICS}
    return row | {f"{name}_95": interval(resampled[name]) for name in _METRICS}


def kappa_of(judged: Judged, found: Flags) -> float:
    """Cohen's kappa of decisions with people's labels."""
    return float(metrics(judged.counts(found).sum(axis=0))["kappa"])


def difference(judged: Judged, found: Flags, other: Flags) -> dict[str, Any]:
    """Kappa of `found` less that of `other`, with the interval of a paired bootstrap over queries."""
    one, two = judged.counts(found), judged.counts(other)
    kappas = metrics(_resampled(one))["kappa"] - metrics(_resampled(two))["kappa"]
    return {"kappa": round(kappa_of(judged, found) - kappa_of(judged, other), 4), "kappa_95": interval(kappas)}


def interval(values: Floats) -> list[float]:
    """The middle 95 % of resampled values."""
    return [round(float(value), 4) for value in np.quantile(values, (0.025, 0.975))]


def best_threshold(judged: Judged, probability: Floats) -> float:
    """The probability from which on calling a candidate a false negative agrees best with people."""
    tried = np.unique(np.quantile(probability, np.linspace(0, 1, _THRESHOLDS)))
    best = np.argmax([kappa_of(judged, probability >= threshold) for threshold in tried])
    return float(tried[best])


@dataclass(frozen=True)
class Predicted:
    """P(false negative) of pairs, each with the threshold that it is held against."""

    probability: Floats
    threshold: Floats

    def found(self, share: float, strong: Flags) -> Flags:
        """The decisions where the share that is most in doubt goes to the strong judge."""
        return decided(self.probability, self.threshold, doubtful(self.probability, self.threshold, share), strong)

    @property
    def alone(self) -> Flags:
        """The decisions without any strong call."""
        found: Flags = self.probability >= self.threshold
        return found


def predicted(pairs: Sequence[Pair], names: Sequence[str], choose: Chooser, *, combined: bool = False) -> Predicted:
    """P(false negative) and threshold of each pair, learnt from pairs of other queries alone. Raises InputError."""
    check_enough(pairs)
    values, relevant = values_of(pairs, names, combined=combined), relevant_of(pairs)
    probability, threshold = np.zeros(len(pairs)), np.zeros(len(pairs))
    for train, test in folds(pairs):
        probability[test] = Model(names, values[train], relevant[train]).probability(values[test])
        others = [pairs[place] for place in train]
        threshold[test] = choose(Judged.of(others), cross_validated(others, names, combined=combined))
    return Predicted(probability, threshold)


def doubtful(probability: Floats, threshold: float | Floats, share: float) -> Flags:
    """The share of candidates whose probability is nearest to the threshold."""
    found = np.zeros(len(probability), dtype=np.bool_)
    nearest = np.argsort(np.abs(probability - threshold), kind="stable")
    found[nearest[: round(share * len(probability))]] = True
    return found


def band(probability: Floats, threshold: float, share: float) -> tuple[float, float]:
    """The band around the threshold that holds this share of the candidates."""
    unsure = doubtful(probability, threshold, share)
    if not unsure.any():
        return threshold, threshold
    width = float(np.abs(probability[unsure] - threshold).max())
    return max(0.0, round(threshold - width, 6)), min(1.0, round(threshold + width, 6))


def decided(probability: Floats, threshold: float | Floats, unsure: Flags, strong: Flags) -> Flags:
    """What the cascade says: the strong evidence where it is unsure, else whether P is above the threshold."""
    found: Flags = np.where(unsure, strong, probability >= threshold)
    return found


def reliability(probability: Floats, relevant: Flags, bins: int = 10) -> list[dict[str, Any]]:
    """Mean probability and share of relevant pairs in bins of like size, least probable first."""
    order = np.argsort(probability, kind="stable")
    return [
        {
            "probability": round(float(probability[part].mean()), 4),
            "relevant": round(float(relevant[part].mean()), 4),
            "pairs": len(part),
        }
        for part in np.array_split(order, bins)
        if len(part)
    ]


def calibration_error(curve: Sequence[dict[str, Any]]) -> float:
    """The expected calibration error of a reliability curve."""
    apart = sum(row["pairs"] * abs(row["probability"] - row["relevant"]) for row in curve)
    return round(float(apart / sum(row["pairs"] for row in curve)), 4)


def _resampled(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The summed counts of queries drawn anew, with the same draws for the same number of queries."""
    queries = len(counts)
    drawn = np.random.default_rng(0).multinomial(queries, np.full(queries, 1 / queries), RESAMPLES)
    summed: npt.NDArray[np.int64] = drawn @ counts
    return summed


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
