"""What `relabel calibrate` has learnt: how to weigh what cheap judges say, and when to ask the strong one.

A calibration is a file of numbers (JSON). To use it takes neither scikit-learn nor any other library.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from relabel.errors import ConfigError
from relabel.settings import Settings

FALSE_NEGATIVE, TRUE_NEGATIVE, UNSURE = "false-negative", "true-negative", "unsure"


_MOST, _FARTHEST = 1e6, 1e100
"""Beyond these no weight, and no feature, is what anybody meant."""


class Weight(Settings):
    """What one feature counts for, once it is scaled: (value - mean) / scale.

    `missing` is what its absence counts for, as measured; None if it was never missing in the fit.
    """

    feature: str
    mean: float = Field(ge=-_FARTHEST, le=_FARTHEST)
    scale: float = Field(gt=1 / _FARTHEST)
    weight: float = Field(ge=-_MOST, le=_MOST)
    missing: float | None = Field(None, ge=-_MOST, le=_MOST)


class Part(Settings):
    """A logistic regression, and the probability from which on a candidate is called a false negative."""

    intercept: float = Field(ge=-_MOST, le=_MOST)
    weights: list[Weight]
    threshold: float = Field(ge=0, le=1)

    def probability(self, features: Mapping[str, float]) -> float:
        """P(false negative) of a candidate, in [0, 1]. Raises KeyError with the name of a feature that is missing."""
        total = self.intercept
        for one in self.weights:
            value = features.get(one.feature)
            if value is not None:
                total += one.weight * (value - one.mean) / one.scale
            elif one.missing is not None:
                total += one.missing
            else:
                raise KeyError(one.feature)
        return 1 / (1 + math.exp(-total)) if total > -700 else 0.0


Interval = tuple[float, float]
"""The middle 95 % of a bootstrap over queries."""


class Metrics(Settings):
    """How decisions agree with people's labels: Cohen's kappa, and how well they find what is relevant."""

    kappa: float
    kappa_95: Interval
    precision: float
    precision_95: Interval
    recall: float
    recall_95: Interval
    f1: float
    f1_95: Interval


class Point(Metrics):
    """What escalating a share comes to; calls and US dollars are for a thousand candidates."""

    share: float
    strong_calls: float
    usd: float | None


class Bin(Settings):
    """Pairs of like probability: its mean, and the share of them that people call relevant."""

    probability: float
    relevant: float
    pairs: int


class Gain(Settings):
    """A difference in kappa, paired by query."""

    kappa: float
    kappa_95: Interval


class Measured(Settings):
    """How good a calibration is, by models and thresholds that have not seen the query in question. `calibration_error`
    is the expected one over the bins of `reliability`.
    """

    auc: float
    brier: float
    calibration_error: float
    reliability: list[Bin]
    strong_only: Metrics
    combined_against_strong: Gain
    evidence: Literal["strong", "combined"]
    chosen: Point
    frontier: list[Point]


class FittedOn(Settings):
    """The labelled pairs of a fit, and what was left out."""

    pairs: int
    relevant: int
    queries: int
    subsets: dict[str, int]
    notes: list[str]


class Calibration(Settings):
    """All of calibration.json. `cheap` weighs what is known before the tier `strong`, to which it sends what falls
    within the `band`; `combined` weighs the strong verdict along with it, where that was measured to be better.

    `judges` are those of the pilot, by tier; `fitted_on` counts the labelled pairs; `measured` says how good it is.
    """

    relabel_calibration: Literal[1] = 1
    strong: str
    relevant: float
    target: dict[str, float]
    band: tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]]
    cheap: Part
    combined: Part | None = None
    judges: dict[str, str]
    fitted_on: FittedOn
    measured: Measured

    @model_validator(mode="after")
    def _in_order(self) -> Calibration:
        if not self.band[0] <= self.band[1]:
            raise ValueError(f"the band begins at {self.band[0]:g} and ends at {self.band[1]:g}")
        return self

    @property
    def subsets(self) -> frozenset[str]:
        """Those that it was fitted on."""
        return frozenset(self.fitted_on.subsets)

    def label(self, probability: float) -> str:
        """What is said of a candidate before the strong tier."""
        if self.band[0] <= probability <= self.band[1]:
            return UNSURE
        return FALSE_NEGATIVE if probability > self.band[1] else TRUE_NEGATIVE


def load_calibration(path: str) -> tuple[Calibration, str]:
    """A calibration from its file, with the sha256 of that. Raises ConfigError."""
    try:
        raw = Path(path).read_bytes()
    except (OSError, ValueError) as fault:
        reason = getattr(fault, "strerror", None) or fault
        raise ConfigError(f"{path}: {reason}; `relabel calibrate` writes a calibration") from None
    try:
        return Calibration.model_validate_json(raw), sha256(raw).hexdigest()
    except ValidationError as fault:
        first = fault.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        where = f" at {place}" if place else ""
        raise ConfigError(
            f"{path}: no calibration of this version{where}: {first['msg']}; `relabel calibrate` writes one"
        ) from None
