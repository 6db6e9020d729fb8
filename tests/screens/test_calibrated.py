"""A calibrated tier decides what the cheap tiers know, and passes on what it is unsure of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from relabel.calibration import Part, Weight
from relabel.config import CalibratedSettings, WordScreenSettings
from relabel.errors import ConfigError
from relabel.judges import Judge
from relabel.records import Verdict
from relabel.screens import make_screen
from relabel.screens.calibrated import MISSING, CalibratedJudge
from tests.conftest import case, instance
from tests.test_calibration import calibration

BEFORE: dict[str, Judge] = {"near": make_screen("near", WordScreenSettings(screen="near-duplicate"))}
PART = Part(intercept=0.0, weights=[Weight(feature="near.score", mean=0.5, scale=0.1, weight=1.0)], threshold=0.5)


def judge(folder: Path, part: Any = "cheap", **changes: Any) -> CalibratedJudge:
    path = folder / "calibration.json"
    path.write_text(calibration(**{"cheap": PART, **changes}).model_dump_json())
    return CalibratedJudge("doubt", CalibratedSettings(calibration=str(path), part=part), BEFORE)


def near(score: float | None) -> Verdict:
    if score is None:
        return Verdict("near", "near-duplicate", None, None, "empty_text")
    return Verdict("near", "near-duplicate", None, "clear", score=score, score_kind="similarity")


def said(judge: CalibratedJudge, *scores: float | None) -> list[Verdict]:
    of = case(instance(len(scores)), [(near(score),) for score in scores])
    with pytest.raises(StopIteration) as finished:
        next(judge.judge(of, "", range(len(scores))))
    return [finished.value.value.candidates[place] for place in range(len(scores))]


def test_says_what_it_is_sure_of_and_what_it_is_not(tmp_path: Path) -> None:
    found = said(judge(tmp_path), 0.2, 0.5, 0.9)
    assert [verdict.label for verdict in found] == ["true-negative", "unsure", "false-negative"]
    assert found[1].score == 0.5
    assert found[1].score_kind == "probability"


def test_names_the_feature_that_is_missing(tmp_path: Path) -> None:
    (found,) = said(judge(tmp_path), None)
    assert (found.label, found.abstained, found.found) == (None, MISSING, "near.score")


def test_takes_an_absence_for_what_it_meant_in_the_fit(tmp_path: Path) -> None:
    weight = PART.weights[0].model_copy(update={"missing": 5.0})
    (found,) = said(judge(tmp_path, cheap=PART.model_copy(update={"weights": [weight]})), None)
    assert found.label == "false-negative"


def test_is_never_unsure_once_the_strong_verdict_is_in(tmp_path: Path) -> None:
    combining = judge(tmp_path, "combined", combined=PART)
    assert combining.labels == ("true-negative", "false-negative")
    assert [verdict.label for verdict in said(combining, 0.2, 0.5)] == ["true-negative", "false-negative"]


def test_decides_alone_where_it_is_told_to(tmp_path: Path) -> None:
    assert [verdict.label for verdict in said(judge(tmp_path, "alone"), 0.49, 0.5)] == [
        "true-negative",
        "false-negative",
    ]


def test_refuses_a_part_that_was_not_worth_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no combined part"):
        judge(tmp_path, "combined")


def test_refuses_by_name_a_feature_that_no_tier_gives(tmp_path: Path) -> None:
    other = PART.model_copy(update={"weights": [PART.weights[0].model_copy(update={"feature": "snippet.answer"})]})
    with pytest.raises(
        ConfigError, match=r"weighs 'snippet\.answer', which no tier before it gives; they give near\.score"
    ):
        judge(tmp_path, cheap=other)


def test_its_name_changes_with_the_file(tmp_path: Path) -> None:
    assert judge(tmp_path).name != judge(tmp_path, band=(0.3, 0.6)).name
