"""How far decisions agree with people's labels, with intervals over queries; and how far probabilities hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from relabel import statistics
from relabel.calibrating.fitting import Flags, Floats, numbered_queries, relevant_of
from relabel.calibrating.pairs import Pair
from relabel.statistics import found_metrics, interval, resampled


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


def measured(judged: Judged, found: Flags) -> dict[str, Any]:
    """The metrics of decisions, each with its 95 % interval by a bootstrap over queries; 0 where there is nothing to
    divide by.
    """
    row = statistics.measured(judged.counts(found))
    return {
        name: ([0.0, 0.0] if name.endswith("_95") else 0.0) if value is None else value for name, value in row.items()
    }


def kappa_of(judged: Judged, found: Flags) -> float:
    """Cohen's kappa of decisions with people's labels."""
    return float(np.nan_to_num(found_metrics(judged.counts(found).sum(axis=0))["kappa"]))


def difference(judged: Judged, found: Flags, other: Flags) -> dict[str, Any]:
    """Kappa of `found` less that of `other`, with the interval of a paired bootstrap over queries."""
    one, two = judged.counts(found), judged.counts(other)
    kappas = found_metrics(resampled(one))["kappa"] - found_metrics(resampled(two))["kappa"]
    apart = round(kappa_of(judged, found) - kappa_of(judged, other), 4)
    return {"kappa": apart, "kappa_95": interval(kappas, len(one)) or [apart, apart]}


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
