"""The judge that knows what it does not know: it weighs all that the tiers before it have found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from relabel.calibration import FALSE_NEGATIVE, TRUE_NEGATIVE, UNSURE, Part, load_calibration
from relabel.config import CalibratedSettings
from relabel.errors import ConfigError
from relabel.judges import Found, Judge
from relabel.records import Asking, Case, Verdict, Verdicts
from relabel.signals import features

MISSING = "missing_feature"
"""The reason of a verdict where a judge abstained that never did in the fit; the verdict says which feature it is."""


class CalibratedJudge:
    """Says "false-negative", "true-negative" or, for what the strong tier shall judge, "unsure"; its score is
    P(false negative).
    """

    features: Sequence[str] = ()

    def __init__(self, tier: str, settings: CalibratedSettings, before: Mapping[str, Judge]) -> None:
        """`before` are the judges of the tiers before this one."""
        self._tier = tier
        self.calibration, self.sha256 = load_calibration(settings.calibration)
        self.path = settings.calibration
        self.name = f"calibration:{self.sha256[:12]}"
        self.part = settings.part
        self._part = self._find(tier, "combined" if settings.part == "combined" else "cheap")
        self.labels: Sequence[str] = (TRUE_NEGATIVE, FALSE_NEGATIVE, *((UNSURE,) if self.part == "cheap" else ()))
        self._labels = {name: judge.labels for name, judge in before.items()}
        self._check(before)

    def judge(self, case: Case, kind: str, candidates: Sequence[int]) -> Asking[Found]:
        """Asks nobody."""
        return Found({place: self._verdict(case.candidates[place]) for place in candidates}, {})
        yield []

    def _verdict(self, said: Verdicts) -> Verdict:
        try:
            probability = round(self._part.probability(features(said, self._labels)), 6)
        except KeyError as fault:
            return Verdict(self._tier, self.name, None, None, MISSING, found=str(fault.args[0]))
        if self.part == "cheap":
            label = self.calibration.label(probability)
        else:
            label = FALSE_NEGATIVE if probability >= self._part.threshold else TRUE_NEGATIVE
        return Verdict(self._tier, self.name, None, label, score=probability, score_kind="probability")

    def _find(self, tier: str, part: str) -> Part:
        found: Part | None = getattr(self.calibration, part)
        if found is None:
            raise ConfigError(
                f"tier {tier!r}: {self.path} has no combined part: the verdicts of {self.calibration.strong!r} alone "
                "were measured to be as good. Leave this tier out"
            )
        return found

    def _check(self, before: Mapping[str, Judge]) -> None:
        known = [f"{tier}.{field}" for tier, judge in before.items() for field in judge.features]
        for one in self._part.weights:
            if one.feature not in known:
                raise ConfigError(
                    f"tier {self._tier!r}: {self.path} weighs {one.feature!r}, which no tier before it gives; they "
                    f"give {', '.join(known) or 'nothing'}. Name the tiers as in the pilot, or calibrate anew"
                )
