"""A calibration is a file of numbers that weighs features without any library."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from relabel.calibration import Calibration, Part, Weight, load_calibration
from relabel.errors import ConfigError

PART = Part(
    intercept=-1.0,
    weights=[
        Weight(feature="near.score", mean=0.5, scale=0.25, weight=2.0),
        Weight(feature="snippet.answer", mean=0.0, scale=1.0, weight=1.0, missing=-0.5),
    ],
    threshold=0.4,
)


METRICS = dict.fromkeys(("kappa", "precision", "recall", "f1"), 0.5) | {
    f"{name}_95": (0.4, 0.6) for name in ("kappa", "precision", "recall", "f1")
}
POINT = {**METRICS, "share": 0.3, "strong_calls": 300.0, "usd": None}
MEASURED = {
    "auc": 0.8,
    "brier": 0.1,
    "calibration_error": 0.02,
    "reliability": [{"probability": 0.3, "relevant": 0.3, "pairs": 10}],
    "strong_only": METRICS,
    "combined_against_strong": {"kappa": 0.0, "kappa_95": (-0.1, 0.1)},
    "evidence": "strong",
    "chosen": POINT,
    "frontier": [POINT],
}


def calibration(**changes: Any) -> Calibration:
    given: dict[str, Any] = {
        "strong": "versus",
        "relevant": 2,
        "target": {"share": 0.3},
        "band": (0.2, 0.6),
        "cheap": PART,
        "judges": {},
        "fitted_on": {"pairs": 10, "relevant": 3, "queries": 5, "subsets": {"nq": 10}, "notes": []},
        "measured": MEASURED,
    }
    return Calibration(**{**given, **changes})


def logistic(total: float) -> float:
    return 1 / (1 + math.exp(-total))


def test_weighs_scaled_features() -> None:
    assert PART.probability({"near.score": 0.75, "snippet.answer": 1.0}) == pytest.approx(logistic(-1 + 2 + 1))


def test_counts_what_was_missing_in_the_fit_as_it_was_then() -> None:
    assert PART.probability({"near.score": 0.5}) == pytest.approx(logistic(-1 - 0.5))


def test_refuses_by_name_what_was_never_missing() -> None:
    with pytest.raises(KeyError, match=r"near\.score"):
        PART.probability({"snippet.answer": 1.0})


@pytest.mark.parametrize("value", [1e9, -1e9, 1e308, -1e308])
def test_no_value_is_too_far_out(value: float) -> None:
    assert 0 <= PART.probability({"near.score": value}) <= 1


@pytest.mark.parametrize(
    ("probability", "label"),
    [(0.19, "true-negative"), (0.2, "unsure"), (0.6, "unsure"), (0.61, "false-negative"), (1.0, "false-negative")],
)
def test_is_unsure_within_its_band(probability: float, label: str) -> None:
    assert calibration().label(probability) == label


def test_comes_back_from_its_file_with_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(calibration().model_dump_json())
    found, digest = load_calibration(str(path))
    assert (found, len(digest)) == (calibration(), 64)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no calibration of this version: Invalid JSON"),
        ("{}", "no calibration of this version at strong"),
        ("[1]", "no calibration of this version"),
        ('{"relabel_calibration": 2}', "no calibration of this version"),
        (json.dumps({**calibration().model_dump(mode="json"), "band": [0.6, 0.2]}), "the band begins at 0.6"),
        (json.dumps({**calibration().model_dump(mode="json"), "more": 1}), "unknown key 'more'"),
    ],
)
def test_a_file_that_is_none_is_refused(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        load_calibration(str(path))


def test_no_file_is_refused_with_the_command_that_writes_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory; `relabel calibrate` writes"):
        load_calibration(str(tmp_path / "none.json"))
