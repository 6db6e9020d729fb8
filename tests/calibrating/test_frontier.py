"""Agreement with people, and its intervals, agree with what others compute."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("sklearn", reason="needs the extra `calibrate`")

from sklearn.metrics import cohen_kappa_score, f1_score, precision_score, recall_score

from relabel.calibrating.calibrate import calibrate
from relabel.calibrating.fitting import values_of
from relabel.calibrating.frontier import (
    BestAgreement,
    Judged,
    Predicted,
    Rule,
    calibration_error,
    difference,
    kappa_of,
    measured,
    predicted,
    reliability,
)
from relabel.calibrating.pairs import Pair, Pairs
from relabel.calibrating.target import Target
from tests.calibrating.shared import CHEAP, STRONG, drawn

FLAGS = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 4)), min_size=2, max_size=60)


def judged(relevant: list[bool], queries: list[int] | None = None) -> Judged:
    _, numbers = np.unique(queries or range(len(relevant)), return_inverse=True)
    return Judged(numbers.astype(np.int64), np.array(relevant))


@given(FLAGS)
def test_metrics_are_those_of_scikit_learn(rows: list[tuple[bool, bool, int]]) -> None:
    relevant, found, queries = (list(column) for column in zip(*rows, strict=True))
    mine = measured(judged(relevant, queries), np.array(found))
    kappa = cohen_kappa_score(relevant, found) if len({*relevant, *found}) > 1 else 0.0
    assert mine["kappa"] == pytest.approx(kappa, abs=1e-4)
    assert mine["precision"] == pytest.approx(precision_score(relevant, found, zero_division=0), abs=1e-4)
    assert mine["recall"] == pytest.approx(recall_score(relevant, found, zero_division=0), abs=1e-4)
    assert mine["f1"] == pytest.approx(f1_score(relevant, found, zero_division=0), abs=1e-4)


def test_intervals_are_over_queries_and_wider_than_over_pairs() -> None:
    rng = np.random.default_rng(1)
    queries = np.repeat(np.arange(20), 50)
    relevant = rng.random(1000) < 0.5
    found = np.where(queries % 2, relevant, rng.random(1000) < 0.5)  # right on every other query
    by_query = measured(Judged(queries, relevant), found)["kappa_95"]
    by_pair = measured(Judged(np.arange(1000), relevant), found)["kappa_95"]
    assert by_query[1] - by_query[0] > 2 * (by_pair[1] - by_pair[0])


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(2)
    queries, held = np.repeat(np.arange(40), 10), 0
    for _ in range(100):
        relevant = rng.random(400) < 0.4
        found = np.where(rng.random(400) < 0.85, relevant, ~relevant)
        low, high = measured(Judged(queries, relevant), found)["kappa_95"]
        held += low <= 0.6897 <= high  # kappa of a judge that is right 85 times in 100 where 40 are relevant
    assert 88 <= held <= 99


def test_a_difference_is_paired() -> None:
    rng = np.random.default_rng(3)
    relevant = rng.random(400) < 0.5
    found = np.where(rng.random(400) < 0.7, relevant, ~relevant)
    better = found.copy()
    better[:20] = relevant[:20]
    of = Judged(np.repeat(np.arange(40), 10), relevant)
    apart = difference(of, better, found)
    assert apart["kappa"] == pytest.approx(kappa_of(of, better) - kappa_of(of, found), abs=1e-4)
    low, high = apart["kappa_95"]
    assert 0 <= low <= apart["kappa"] <= high
    assert difference(of, found, found) == {"kappa": 0.0, "kappa_95": [0.0, 0.0]}


def fitted(pairs: Pairs, **settings: Any) -> Rule:
    return Rule(pairs.pairs, CHEAP, BestAgreement(), **settings)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.7, 1.0])
def test_a_band_holds_the_share_that_is_most_in_doubt(share: float) -> None:
    pairs = drawn(100)
    rule = fitted(pairs)
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


def test_the_best_threshold_parts_what_can_be_parted() -> None:
    of = judged([False] * 6 + [True] * 4)
    threshold = BestAgreement().threshold(of, np.array([0.1, 0.1, 0.2, 0.2, 0.2, 0.3, 0.6, 0.7, 0.7, 0.8]))
    assert 0.3 < threshold <= 0.6


def test_a_calibrated_judge_has_no_calibration_error_and_an_overconfident_one_has() -> None:
    rng = np.random.default_rng(4)
    probability = rng.random(20_000)
    relevant = rng.random(20_000) < probability
    assert calibration_error(reliability(probability, relevant)) < 0.015
    sharper = np.where(probability > 0.5, 0.95, 0.05)
    assert calibration_error(reliability(sharper, relevant)) > 0.15
    assert sum(row["pairs"] for row in reliability(probability, relevant)) == 20_000
