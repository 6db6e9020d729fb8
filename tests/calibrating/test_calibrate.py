"""A calibration sends to the strong judge what the cheap ones do not know, as much of it as it is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra `calibrate`")

from relabel.calibrating.calibrate import calibrate
from relabel.calibrating.pairs import Pairs
from relabel.calibrating.target import SHARES, Loss, Target, target_of
from relabel.errors import ConfigError, InputError
from tests.calibrating.shared import drawn


def test_the_band_holds_about_the_share_that_was_asked_for() -> None:
    pairs = drawn(100)
    found = calibrate(pairs, Target(share=0.3), 2)
    unsure = np.mean([found.label(found.cheap.probability(pair.cheap)) == "unsure" for pair in pairs.pairs])
    assert unsure == pytest.approx(0.3, abs=0.05)
    assert found.measured.chosen.share == pytest.approx(0.3, abs=0.03)


def test_a_better_strong_judge_makes_escalating_worth_more() -> None:
    found = calibrate(drawn(100, strong_right=0.98), Target(share=0.3), 2).measured
    assert [point.share for point in found.frontier] == pytest.approx(list(SHARES), abs=0.04)
    nothing, some, everything = (found.frontier[place].kappa for place in (0, 6, 20))
    assert nothing < some < everything == found.strong_only.kappa


def test_the_strong_verdict_stands_alone_unless_the_rest_helps_it() -> None:
    assert calibrate(drawn(100, strong_right=0.98), Target(share=0.3), 2).combined is None
    helped = calibrate(drawn(200, strong_right=0.75), Target(share=1.0), 2)
    assert helped.combined is not None
    assert helped.measured.combined_against_strong.kappa_95[0] > 0
    assert "strong.grade" in [one.feature for one in helped.combined.weights]
    assert helped.measured.evidence == "combined"


def test_where_the_strong_judge_abstains_the_cheap_ones_decide() -> None:
    pairs = drawn(100, strong_right=0.98)
    silent = [replace(pair, finds=None, strong={}) if place % 2 else pair for place, pair in enumerate(pairs.pairs)]
    found = calibrate(Pairs(silent, "strong", pairs.cheap, pairs.strong), Target(share=1.0), 2)
    assert found.measured.strong_only.recall < 0.6
    assert found.measured.chosen.recall > 0.7
    assert found.fitted_on.notes[0].startswith("strong abstained on 500 of 1,000 labelled pairs")


def test_a_strong_judge_that_says_nothing_is_refused() -> None:
    pairs = drawn()
    silent = Pairs([replace(pair, finds=None, strong={}) for pair in pairs.pairs], "strong", pairs.cheap, pairs.strong)
    with pytest.raises(InputError, match="strong gave no verdict on any of 400 labelled pairs"):
        calibrate(silent, Target(share=1.0), 2)


def test_a_cost_is_a_share_by_the_price_of_a_call() -> None:
    found = calibrate(drawn(usd=0.002), Target(usd=0.5), 2)
    assert found.measured.chosen.share == pytest.approx(0.25, abs=0.04)
    assert found.measured.chosen.usd == pytest.approx(0.5, abs=0.08)
    with pytest.raises(ConfigError, match="--strong-price"):
        calibrate(drawn(), Target(usd=0.5), 2)


def test_a_loss_sets_the_threshold_and_weighs_calls_against_mistakes() -> None:
    cheap_calls = calibrate(drawn(100, strong_right=0.98), Target(loss=Loss(3, 1, 0.0)), 2)
    dear_calls = calibrate(drawn(100, strong_right=0.98), Target(loss=Loss(3, 1, 2.0)), 2)
    assert cheap_calls.cheap.threshold == dear_calls.cheap.threshold == 0.25
    assert cheap_calls.measured.chosen.share > 0.5
    assert dear_calls.measured.chosen.share == 0


def test_cheap_judges_that_say_nothing_are_refused() -> None:
    pairs = drawn()
    same = Pairs(
        [replace(pair, cheap={"near.score": 0.0}) for pair in pairs.pairs], "strong", pairs.cheap, pairs.strong
    )
    with pytest.raises(InputError, match="nothing to weigh"):
        calibrate(same, Target(share=0.3), 2)


def test_the_same_pairs_make_the_same_file() -> None:
    one, two = (calibrate(drawn(), Target(share=0.3), 2).model_dump_json() for _ in range(2))
    assert one == two


@pytest.mark.parametrize(
    ("options", "target"),
    [
        ((None, None, None), Target(share=0.3)),
        ((0.0, None, None), Target(share=0.0)),
        ((None, 2.5, None), Target(usd=2.5)),
        ((None, None, "5:1:0.05"), Target(loss=Loss(5, 1, 0.05))),
    ],
)
def test_targets(options: tuple[float | None, float | None, str | None], target: Target) -> None:
    assert target_of(*options) == target


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((0.3, 2.0, None), "--share and --usd: name one"),
        ((1.5, None, None), "from 0 to 1"),
        ((float("nan"), None, None), "from 0 to 1"),
        ((None, -1.0, None), "0 or more"),
        ((None, float("nan"), None), "0 or more"),
        ((None, None, "5:1"), "three numbers"),
        ((None, None, "a:b:c"), "three numbers"),
        ((None, None, "0:1:1"), "cost more than 0"),
        ((None, None, "nan:1:1"), "cost more than 0"),
        ((None, 1.0, None, -1.0), "--strong-price -1: expected US dollars"),
        ((None, 1.0, None, float("nan")), "--strong-price nan"),
    ],
)
def test_targets_that_are_none(options: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        target_of(*options)
