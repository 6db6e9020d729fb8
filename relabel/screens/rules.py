"""When a candidate is too close for a negative: the positive-aware rules of NV-Retriever (arXiv 2407.15831), and one
that adapts to the query.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import pstdev

from relabel.config import ScreenSettings

CLOSE, CLEAR = "close", "clear"


def labels(settings: ScreenSettings, scores: Sequence[float], yardstick: float | None) -> list[str]:
    """What each candidate of an instance is, close or clear, by their scores and the closest positive's.

    `score`: as close as the threshold. `share`: as close as this share of the positive ("TopK-PercPos"); of a negative
    score the share lies below it, of 0 there is none. `margin`: at most so far below the positive ("TopK-MarginPos").
    `spread`: at most so many standard deviations of the candidates' scores below the positive.
    """
    least = _least(settings, scores, yardstick)
    return [CLOSE if least is not None and score >= least else CLEAR for score in scores]


def _least(settings: ScreenSettings, scores: Sequence[float], yardstick: float | None) -> float | None:
    """The score from which on a candidate is too close; None where there is nothing to hold it against."""
    threshold = settings.limit
    if settings.by == "score":
        return threshold
    if yardstick is None or (settings.by == "share" and yardstick == 0):
        return None
    if settings.by == "share":
        return yardstick - (1 - threshold) * abs(yardstick)
    return yardstick - threshold * (pstdev(scores) if settings.by == "spread" and scores else 1.0)
