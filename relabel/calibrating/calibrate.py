"""From labelled pairs to a calibration, with all that was measured of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import brier_score_loss, roc_auc_score

from relabel.calibrating.agreement import Judged, calibration_error, difference, measured, reliability
from relabel.calibrating.fitting import Flags, check_enough, usable
from relabel.calibrating.pairs import Pairs
from relabel.calibrating.rule import Predicted, Rule, predicted
from relabel.calibrating.target import SHARES, Target
from relabel.calibration import Calibration, FittedOn, Gain, Measured, Metrics, Part, Point
from relabel.errors import InputError


def calibrate(pairs: Pairs, target: Target, relevant: float) -> Calibration:
    """Fit, cross-validate by query, and choose the thresholds. `relevant` is the least grade of a relevant passage, as
    the labels had it. All that is `measured` is of rules (model, threshold and band) that have not seen the query in
    question; only what share makes least of a loss, and whether the combined part is taken, is read off that very
    measure. Raises RelabelError.
    """
    check_enough(pairs.pairs)
    names = usable(pairs.pairs, pairs.cheap)
    if not names:
        raise InputError(f"the cheap judges say the same of all {len(pairs.pairs):,} labelled pairs: nothing to weigh")
    silent = np.array([pair.finds is None for pair in pairs.pairs])
    if silent.all():
        raise InputError(f"{pairs.strong_tier} gave no verdict on any of {len(pairs.pairs):,} labelled pairs")
    judged, cheap = Judged.of(pairs.pairs), predicted(pairs.pairs, names, target)
    strong = np.where(silent, cheap.alone, strong_of(pairs))
    share = target.escalated(judged, cheap, strong, pairs.usd)
    both = [*names, *usable(pairs.pairs, pairs.strong)]
    combined = predicted(pairs.pairs, both, target, combined=True).alone
    unsure = cheap.unsure(share)
    better = difference(judged, cheap.found(unsure, combined), cheap.found(unsure, strong))
    taken = better["kappa_95"][0] > 0
    rule = Rule(pairs.pairs, names, target)
    return Calibration(
        strong=pairs.strong_tier,
        relevant=relevant,
        target=target.as_dict(),
        band=rule.band(share),
        cheap=rule.model.part(rule.threshold),
        combined=_combined(pairs, both, target) if taken else None,
        judges=pairs.judges,
        fitted_on=FittedOn(
            pairs=len(pairs.pairs),
            relevant=int(judged.relevant.sum()),
            queries=len(set(judged.query.tolist())),
            subsets=pairs.subsets,
            notes=[*pairs.notes, *_on_silence(pairs, silent)],
        ),
        measured=Measured(
            **_quality(judged, cheap),
            strong_only=Metrics(**measured(judged, strong_of(pairs))),
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
    """One point of the frontier: with the share that really goes on where about this share shall."""
    unsure = cheap.unsure(share)
    reached = float(unsure.mean())
    return Point(
        share=round(reached, 4),
        strong_calls=round(1000 * reached, 1),
        usd=None if price is None else round(1000 * reached * price, 4),
        **measured(judged, cheap.found(unsure, evidence)),
    )


def _on_silence(pairs: Pairs, silent: Flags) -> list[str]:
    strong, count = pairs.strong_tier, int(silent.sum())
    if not count:
        return []
    said = f"{strong} abstained on {count:,} of {len(silent):,} labelled pairs"
    return [f"{said}: there the cheap judges decide ({strong} only: all are kept)"]


def _quality(judged: Judged, cheap: Predicted) -> dict[str, Any]:
    curve = reliability(cheap.probability, judged.relevant)
    return {
        "auc": round(float(roc_auc_score(judged.relevant, cheap.probability)), 4),
        "brier": round(float(brier_score_loss(judged.relevant, cheap.probability)), 4),
        "calibration_error": calibration_error(curve),
        "reliability": curve,
    }


def _combined(pairs: Pairs, names: list[str], target: Target) -> Part:
    rule = Rule(pairs.pairs, names, target, combined=True)
    return rule.model.part(rule.threshold)
