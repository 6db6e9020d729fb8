"""The strong judge is asked where there is doubt, as much as it is told and as like pairs stay together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra `calibrate`")

from relabel.calibrating.agreement import Judged, kappa_of
from relabel.calibrating.calibrate import calibrate
from relabel.calibrating.fitting import values_of
from relabel.calibrating.pairs import Pair, Pairs
from relabel.calibrating.rule import BestAgreement, Predicted, Rule, predicted
from relabel.calibrating.target import Target
from tests.calibrating.shared import CHEAP, STRONG, drawn


def test_the_best_threshold_parts_what_can_be_parted() -> None:
    of = Judged(np.arange(10), np.array([False] * 6 + [True] * 4))
    threshold = BestAgreement().threshold(of, np.array([0.1, 0.1, 0.2, 0.2, 0.2, 0.3, 0.6, 0.7, 0.7, 0.8]))
    assert 0.3 < threshold <= 0.6


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.7, 1.0])
def test_a_band_holds_the_share_that_is_most_in_doubt(share: float) -> None:
    pairs = drawn(100)
    rule = Rule(pairs.pairs, CHEAP, BestAgreement())
    probability = rule.model.probability(values_of(pairs.pairs, CHEAP))
    low, high = rule.band(share)
    within = (probability >= low) & (probability <= high)
    assert within.mean() == pytest.approx(share, abs=0.01)
    assert (within == ((rule.doubt(probability) < share) | (share == 1))).mean() > 0.999


def test_like_pairs_are_in_doubt_together() -> None:
    """A cheap judge that says yes or no can send on what it says yes to, what it says no to, all, or nothing."""
    pairs = coarse(60)
    rule = Rule(pairs.pairs, ["cheap.grade"], BestAgreement())
    probability = rule.model.probability(values_of(pairs.pairs, ["cheap.grade"]))
    flagged = float(np.mean([pair.cheap["cheap.grade"] for pair in pairs.pairs]))
    shares = [float((rule.doubt(probability) < share).mean()) for share in (0.05, 0.3, 0.6, 0.95)]
    assert shares == [0.0, pytest.approx(flagged), pytest.approx(flagged), 1.0]


def test_what_is_claimed_of_coarse_judges_holds_on_new_pairs() -> None:
    new, kappas, claims = coarse(600, seed=99), [], []
    for seed in range(5):
        found = calibrate(coarse(60, seed=seed), Target(share=0.3), 2)
        said = [found.label(round(found.cheap.probability(pair.cheap), 6)) for pair in new.pairs]
        decided = [
            pair.finds if one == "unsure" else one == "false-negative"
            for one, pair in zip(said, new.pairs, strict=True)
        ]
        kappas.append(kappa_of(Judged.of(new.pairs), np.array(decided)))
        claims.append(found.measured.chosen.kappa)
        assert said.count("unsure") / len(said) == pytest.approx(found.measured.chosen.share, abs=0.08)
    assert np.mean(kappas) == pytest.approx(np.mean(claims), abs=0.04)


def coarse(queries: int, seed: int = 0) -> Pairs:
    """With a cheap judge that says yes or no, and is right 3 times in 4."""
    rng = np.random.default_rng(seed)
    pairs = drawn(queries, seed=seed)
    said = [pair.relevant if rng.random() < 0.75 else not pair.relevant for pair in pairs.pairs]
    told = [replace(pair, cheap={"cheap.grade": float(one)}) for pair, one in zip(pairs.pairs, said, strict=True)]
    return Pairs(told, "strong", ["cheap.grade"], STRONG)


def test_the_strong_verdict_stands_where_there_is_doubt() -> None:
    of = Predicted(np.array([0.1, 0.4, 0.6, 0.9]), np.full(4, 0.5), np.array([0.9, 0.2, 0.3, 0.8]))
    assert of.unsure(0.5).tolist() == [False, True, True, False]
    found = of.found(of.unsure(0.5), np.array([True, True, False, False]))
    assert found.tolist() == [False, True, False, True]


def test_noise_agrees_with_nobody_as_thresholds_have_not_seen_the_query_either() -> None:
    rng = np.random.default_rng(5)
    pairs = [
        Pair(f"{query}", f"{place}", {"noise.score": rng.random()}, {}, None, bool(rng.random() < 0.3))
        for query in range(60)
        for place in range(10)
    ]
    alone = predicted(pairs, ["noise.score"], BestAgreement()).alone
    assert abs(kappa_of(Judged.of(pairs), alone)) < 0.08
