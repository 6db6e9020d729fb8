"""From labelled pairs to a calibration, with all that was measured of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import brier_score_loss, roc_auc_score

from relabel.calibrating.fitting import FOLDS, Flags, check_enough, cross_validated, fit, usable
from relabel.calibrating.frontier import (
    SHARES,
    Judged,
    Predicted,
    band,
    best_threshold,
    calibration_error,
    difference,
    measured,
    predicted,
    reliability,
)
from relabel.calibrating.pairs import Pairs
from relabel.calibrating.target import Target
from relabel.calibration import Calibration, FittedOn, Gain, Measured, Metrics, Part, Point
from relabel.errors import InputError


def calibrate(pairs: Pairs, target: Target, relevant: float) -> Calibration:
    """Fit, cross-validate by query, and choose the thresholds. `relevant` is the least grade of a relevant passage, as
    the labels had it. All that is `measured` is of models and thresholds that have not seen the query in question.
    Raises RelabelError.
    """
    check_enough(pairs.pairs)
    names = usable(pairs.pairs, pairs.cheap)
    if not names:
        raise InputError(f"the cheap judges say the same of all {len(pairs.pairs):,} labelled pairs: nothing to weigh")
    judged, strong = Judged.of(pairs.pairs), strong_of(pairs)
    cheap = predicted(pairs.pairs, names, target.threshold)
    share = target.escalated(judged, cheap, strong, pairs.usd)
    both = [*names, *usable(pairs.pairs, pairs.strong)]
    combined = predicted(pairs.pairs, both, best_threshold, combined=True).alone
    better = difference(judged, cheap.found(share, combined), cheap.found(share, strong))
    taken = better["kappa_95"][0] > 0
    probability = cross_validated(pairs.pairs, names)
    threshold = target.threshold(judged, probability)
    return Calibration(
        strong=pairs.strong_tier,
        relevant=relevant,
        target=target.as_dict(),
        band=band(probability, threshold, share),
        cheap=fit(pairs.pairs, names).part(threshold),
        combined=_combined(pairs, both, judged) if taken else None,
        judges=pairs.judges,
        fitted_on=FittedOn(
            pairs=len(pairs.pairs),
            relevant=int(judged.relevant.sum()),
            queries=len(set(judged.query.tolist())),
            subsets=pairs.subsets,
            notes=pairs.notes,
        ),
        measured=Measured(
            **_quality(judged, cheap),
            strong_only=Metrics(**measured(judged, strong)),
            combined_against_strong=Gain(**better),
            evidence="combined" if taken else "strong",
            chosen=point(judged, cheap, combined if taken else strong, share, pairs.usd),
            frontier=[point(judged, cheap, combined if taken else strong, each, pairs.usd) for each in SHARES],
        ),
    )


def strong_of(pairs: Pairs) -> Flags:
    """What the strong verdicts alone find; where that judge abstained, nothing."""
    return np.array([pair.finds is True for pair in pairs.pairs], dtype=np.bool_)


def point(judged: Judged, cheap: Predicted, evidence: Flags, share: float, price: float | None) -> Point:
    """One point of the frontier."""
    return Point(
        share=round(share, 4),
        strong_calls=round(1000 * share, 1),
        usd=None if price is None else round(1000 * share * price, 4),
        **measured(judged, cheap.found(share, evidence)),
    )


def _quality(judged: Judged, cheap: Predicted) -> dict[str, Any]:
    curve = reliability(cheap.probability, judged.relevant)
    return {
        "folds": FOLDS,
        "auc": round(float(roc_auc_score(judged.relevant, cheap.probability)), 4),
        "brier": round(float(brier_score_loss(judged.relevant, cheap.probability)), 4),
        "calibration_error": calibration_error(curve),
        "reliability": curve,
    }


def _combined(pairs: Pairs, names: list[str], judged: Judged) -> Part:
    threshold = best_threshold(judged, cross_validated(pairs.pairs, names, combined=True))
    return fit(pairs.pairs, names, combined=True).part(threshold)
