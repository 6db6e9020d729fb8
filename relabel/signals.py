"""Verdicts as numbers: the features that a calibration weighs, each named `tier.field`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from relabel.records import Verdict, Verdicts

GRADE, SCORE = "grade", "score"


def fields(labels: Sequence[str]) -> tuple[str, ...]:
    """What a verdict with one of these labels is counted as: one grade where all are numbers; else each but the first,
    by its share.
    """
    return (GRADE,) if all(map(_is_number, labels)) else tuple(labels[1:])


def features(verdicts: Verdicts, labels: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """All that was said of a passage, by feature; `labels` are those that the judge of each tier can give.

    A verdict that abstained adds nothing: its features are missing.
    """
    found: dict[str, float] = {}
    for verdict in verdicts:
        if verdict.label is not None and verdict.score_kind != "probability":
            said = _measures(verdict) if verdict.score_kind == "similarity" else _shares(verdict, labels[verdict.tier])
            found |= {f"{verdict.tier}.{name}": value for name, value in said.items()}
    return found


def _measures(verdict: Verdict) -> dict[str, float]:
    scored = {} if verdict.score is None else {SCORE: verdict.score}
    return {**scored, **(verdict.signals or {})}


def _shares(verdict: Verdict, labels: Sequence[str]) -> dict[str, float]:
    """The mean of the grades that were given, or the share of each label: of the votes, of the probability."""
    shares = _votes(verdict, labels)
    if fields(labels) == (GRADE,):
        return {GRADE: sum(float(label) * share for label, share in shares.items())}
    return {label: shares.get(label, 0.0) for label in labels[1:]}


def _votes(verdict: Verdict, labels: Sequence[str]) -> dict[str, float]:
    counted = {label: count for label, count in (verdict.votes or {}).items() if label in labels}
    if total := sum(counted.values()):
        return {label: count / total for label, count in counted.items()}
    assert verdict.label is not None
    if verdict.score_kind != "logprobs" or verdict.score is None or fields(labels) == (GRADE,):
        return {verdict.label: 1.0}
    rest = (1.0 - verdict.score) / max(len(labels) - 1, 1)
    return dict.fromkeys(labels, rest) | {verdict.label: verdict.score}


def _is_number(label: str) -> bool:
    try:
        return math.isfinite(float(label))
    except ValueError:
        return False
