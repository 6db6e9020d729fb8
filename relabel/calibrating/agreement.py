"""How far decisions agree with people's labels, with intervals over queries; and how far probabilities hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from relabel.calibrating.fitting import Flags, Floats, numbered_queries, relevant_of
from relabel.calibrating.pairs import Pair

RESAMPLES = 1000
_METRICS = ("kappa", "precision", "recall", "f1")


@dataclass(frozen=True)
class Judged:
    """Pairs that people have judged: the number of each one's query, and whether they call it relevant."""

    query: npt.NDArray[np.int64]
    relevant: Flags

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> Judged:
        """The pairs' queries, numbered, and labels."""
        return cls(numbered_queries(pairs), relevant_of(pairs))

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
