"""Agreement with people, and its intervals, agree with what others compute."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("sklearn", reason="needs the extra `calibrate`")

from sklearn.metrics import cohen_kappa_score, f1_score, precision_score, recall_score

from relabel.calibrating.agreement import Judged, calibration_error, difference, kappa_of, measured, reliability

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


def test_a_calibrated_judge_has_no_calibration_error_and_an_overconfident_one_has() -> None:
    rng = np.random.default_rng(4)
    probability = rng.random(20_000)
    relevant = rng.random(20_000) < probability
    assert calibration_error(reliability(probability, relevant)) < 0.015
    sharper = np.where(probability > 0.5, 0.95, 0.05)
    assert calibration_error(reliability(sharper, relevant)) > 0.15
    assert sum(row["pairs"] for row in reliability(probability, relevant)) == 20_000
