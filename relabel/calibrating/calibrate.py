"""From labelled pairs to a calibration, with all that was measured of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import brier_score_loss, roc_auc_score

from relabel.calibrating.fitting import FOLDS, Flags, Floats, Model, cross_validated, fit, usable
from relabel.calibrating.frontier import (
    SHARES,
    Judged,
    band,
    best_threshold,
    calibration_error,
    decided,
    difference,
    doubtful,
    measured,
    reliability,
)
from relabel.calibrating.pairs import Pairs
from relabel.calibrating.target import Target
from relabel.calibration import Calibration, Part
from relabel.errors import InputError


def calibrate(pairs: Pairs, target: Target, relevant: float) -> Calibration:
    """Fit, cross-validate by query, and choose the thresholds. `relevant` is the least grade of a relevant passage, as
    the labels had it. Raises RelabelError.
    """
    names = usable(pairs.pairs, pairs.cheap)
    if not names:
        raise InputError(f"the cheap judges say the same of all {len(pairs.pairs):,} labelled pairs: nothing to weigh")
    judged, strong = Judged.of(pairs.pairs), strong_of(pairs)
    probability = cross_validated(pairs.pairs, names)
    threshold = target.threshold(judged, probability)
    share = target.escalated(judged, probability, threshold, strong, pairs.usd)
    unsure = doubtful(probability, threshold, share)
    combined = Combined(pairs, names, judged)
    better = difference(
        judged, decided(probability, threshold, unsure, combined.found), decided(probability, threshold, unsure, strong)
    )
    taken = better["kappa_95"][0] > 0
    evidence = combined.found if taken else strong
    curve = reliability(probability, judged.relevant)
    return Calibration(
        strong=pairs.strong_tier,
        relevant=relevant,
        target=target.as_dict(),
        band=band(probability, threshold, share),
        cheap=fit(pairs.pairs, names).part(threshold),
        combined=combined.part() if taken else None,
        judges=pairs.judges,
        fitted_on={
            "pairs": len(pairs.pairs),
            "relevant": int(judged.relevant.sum()),
            "queries": len(set(judged.query.tolist())),
            "subsets": pairs.subsets,
            "notes": pairs.notes,
        },
        measured={
            "folds": FOLDS,
            "auc": round(float(roc_auc_score(judged.relevant, probability)), 4),
            "brier": round(float(brier_score_loss(judged.relevant, probability)), 4),
            "calibration_error": calibration_error(curve),
            "reliability": curve,
            "strong_only": measured(judged, strong),
            "combined_against_strong": better,
            "evidence": "combined" if taken else "strong",
            "chosen": row(judged, probability, threshold, evidence, share, pairs.usd),
            "frontier": [row(judged, probability, threshold, evidence, each, pairs.usd) for each in SHARES],
        },
    )


def strong_of(pairs: Pairs) -> Flags:
    """What the strong verdicts alone find; where that judge abstained, nothing."""
    return np.array([pair.finds is True for pair in pairs.pairs], dtype=np.bool_)


def row(
    judged: Judged, probability: Floats, threshold: float, evidence: Flags, share: float, price: float | None
) -> dict[str, Any]:
    """One point of the frontier, per thousand candidates."""
    unsure = doubtful(probability, threshold, share)
    return {
        "share": round(share, 4),
        "strong_calls": round(1000 * float(unsure.mean()), 1),
        "usd": None if price is None else round(1000 * float(unsure.mean()) * price, 4),
        **measured(judged, decided(probability, threshold, unsure, evidence)),
    }


class Combined:
    """Cheap and strong evidence weighed together, for what the strong judge has seen."""

    def __init__(self, pairs: Pairs, names: list[str], judged: Judged) -> None:
        self._pairs = pairs.pairs
        self._names = [*names, *usable(pairs.pairs, pairs.strong)]
        probability = cross_validated(self._pairs, self._names, combined=True)
        self._threshold = best_threshold(judged, probability)
        self.found: Flags = probability >= self._threshold

    def part(self) -> Part:
        """The model of all pairs."""
        return self.model().part(self._threshold)

    def model(self) -> Model:
        """The model of all pairs, to predict with."""
        return fit(self._pairs, self._names, combined=True)
