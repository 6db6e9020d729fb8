"""Agreement is what scikit-learn says it is, and intervals hold as often as they say."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, f1_score, precision_score, recall_score

from relabel.statistics import (
    Sums,
    agreement,
    cluster_variance,
    compared,
    found_metrics,
    kappa,
    measured,
    share_interval,
    student,
)

PAIRS = st.integers(2, 5).flatmap(
    lambda labels: st.lists(st.tuples(st.integers(0, labels - 1), st.integers(0, labels - 1)), min_size=1, max_size=60)
)


def table(pairs: list[tuple[int, int]], labels: int = 5) -> np.ndarray:
    counts = np.zeros((labels, labels))
    for row, column in pairs:
        counts[row, column] += 1
    return counts


@given(PAIRS)
def test_kappa_is_that_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    one, other = zip(*pairs, strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = cohen_kappa_score(one, other)
    found = kappa(table(pairs))
    if math.isnan(expected):
        assert found is None
    else:
        assert found == pytest.approx(expected)


def test_kappa_is_that_of_scikit_learn_on_many_random_labels() -> None:
    random = np.random.default_rng(7)
    for labels in (2, 3, 4, 7):
        one = random.integers(0, labels, 5000)
        other = np.where(random.random(5000) < 0.6, one, random.integers(0, labels, 5000))
        pairs = list(zip(one.tolist(), other.tolist(), strict=True))
        assert kappa(table(pairs, labels)) == pytest.approx(cohen_kappa_score(one, other), abs=1e-12)


def test_two_judges_who_say_one_thing_only_have_no_kappa() -> None:
    assert kappa(np.array([[9.0, 0], [0, 0]])) is None
    assert agreement(np.array([[[9.0, 0], [0, 0]]])) == {"agreed": 1.0, "kappa": None, "kappa_95": None}
    assert agreement(np.zeros((1, 2, 2))) == {"agreed": None, "kappa": None, "kappa_95": None}


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_metrics_are_those_of_scikit_learn(pairs: list[tuple[bool, bool]]) -> None:
    found, true = zip(*pairs, strict=True)
    cells = [(True, True), (True, False), (False, True), (False, False)]
    counts = np.array([pairs.count(cell) for cell in cells])
    row = {name: np.nan_to_num(value) for name, value in found_metrics(counts).items()}
    assert row["precision"] == pytest.approx(precision_score(true, found, zero_division=0))
    assert row["recall"] == pytest.approx(recall_score(true, found, zero_division=0))
    assert row["f1"] == pytest.approx(f1_score(true, found, zero_division=0))


@given(st.lists(st.integers(1, 9).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), min_size=2, max_size=40))
def test_the_variance_of_a_share_is_that_of_its_linearised_ratio(clusters: list[tuple[int, int]]) -> None:
    x, n = (np.array(side, dtype=float) for side in zip(*clusters, strict=True))
    share = x.sum() / n.sum()
    expected = len(x) / (len(x) - 1) * ((x - share * n) ** 2).sum() / n.sum() ** 2
    assert cluster_variance(sums_of(x, n)) == pytest.approx(expected, abs=1e-12)


def sums_of(x: np.ndarray, n: np.ndarray) -> Sums:
    """What an interval is made from, of clusters with x hits among n."""
    return Sums(len(x), *(int(one) for one in (x.sum(), n.sum(), (x * x).sum(), (x * n).sum(), (n * n).sum())))


def test_many_draws_of_one_have_wilsons_interval() -> None:
    low, high = share_interval(sums_of(np.array([1, 0, 0, 0] * 500), np.ones(2000)))
    assert (low, high) == pytest.approx((0.2315, 0.2694), abs=5e-4)


@pytest.mark.parametrize(
    ("freedom", "expected"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (5, 2.5706), (9, 2.2622), (30, 2.0423), (1e6, 1.96)],
)
def test_students_quantiles_are_those_of_the_tables(freedom: float, expected: float) -> None:
    assert student(freedom) == pytest.approx(expected, rel=0.004)


@pytest.mark.parametrize(("hits", "of"), [(0, 15), (15, 15)])
def test_an_interval_holds_its_share_and_stays_within_bounds(hits: int, of: int) -> None:
    low, high = share_interval(sums_of(np.full(20, hits), np.full(20, of)))
    assert 0 <= low <= hits / of <= high <= 1
    assert high - low > 0.1, "twenty queries are twenty draws, however many candidates they have"


def test_queries_with_the_same_share_each_are_no_reason_for_an_interval_by_accident_of_rounding() -> None:
    widths = []
    for hits, of in ((1, 3), (2, 5), (3, 7)):
        low, high = share_interval(sums_of(np.full(30, hits), np.full(30, of)))
        widths.append((high - low) * of**0.5)
    assert max(widths) < 1.2 * min(widths)


@pytest.mark.parametrize(
    ("clusters", "sizes", "rate", "alike"),
    [
        (5, [10], 0.3, 0.3),
        (10, [10], 0.1, 0.3),
        (60, [5, 30], 0.06, 0.3),
        (60, [5, 30], 0.3, 0.0),
        (100, [10], 0.02, 0.05),
        (5, [1, 2, 5, 100], 0.3, 0.3),
        (10, [1, 2, 5, 100], 0.1, 0.3),
        (100, [1, 2, 5, 100], 0.3, 0.3),
    ],
)
def test_intervals_of_clustered_shares_hold_about_as_often_as_they_say(
    clusters: int, sizes: list[int], rate: float, alike: float
) -> None:
    random = np.random.default_rng(3)
    held = 0
    for _ in range(800):
        n = random.choice(sizes, clusters)
        spread = (1 - alike) / alike if alike else None
        rates = random.beta(rate * spread, (1 - rate) * spread, clusters) if spread else np.full(clusters, rate)
        low, high = share_interval(sums_of(random.binomial(n, rates), n))
        held += low <= rate <= high
    assert 0.89 <= held / 800 <= 1


def test_the_interval_of_kappa_is_wider_where_candidates_of_a_query_are_alike() -> None:
    alone = np.array([[[3, 1], [1, 3]]] * 50, dtype=float) + np.random.default_rng(1).integers(0, 2, (50, 2, 2))
    bundled = alone.reshape(5, 10, 2, 2).sum(axis=1)
    spread = [np.ptp(agreement(counts)["kappa_95"]) for counts in (alone, bundled)]
    assert agreement(alone)["kappa"] == agreement(bundled)["kappa"]
    assert spread[0] > 0


class TestTwoRunsAgainstPeople:
    def test_a_run_does_not_differ_from_itself(self) -> None:
        counts = np.random.default_rng(0).integers(0, 9, (30, 4)).astype(float)
        for apart in compared(counts, counts).values():
            assert apart == {"difference": 0.0, "difference_95": [0.0, 0.0], "p": 1.0}

    def test_one_that_is_better_on_nearly_every_query_is_found_out(self) -> None:
        worse = np.array([[2, 2, 2, 9]] * 30, dtype=float)
        better = np.array([[3, 1, 1, 10]] * 29 + [[2, 2, 2, 9]], dtype=float)
        apart = compared(worse, better)["kappa"]
        assert apart["p"] < 0.001
        assert 0 < apart["difference_95"][0] <= apart["difference"]
        assert apart["difference"] == pytest.approx(measured(better)["kappa"] - measured(worse)["kappa"], abs=2e-4)

    def test_chance_is_called_so(self) -> None:
        random = np.random.default_rng(5)
        found = 0
        for _ in range(60):
            one, other = (random.multinomial(15, [0.1, 0.05, 0.05, 0.8], 25).astype(float) for _ in "ab")
            found += compared(one, other)["kappa"]["p"] < 0.05
        assert found <= 8

    def test_one_query_has_no_interval(self) -> None:
        row = measured(np.array([[5.0, 1, 2, 20]]))
        assert (row["kappa"] is not None, row["kappa_95"]) == (True, None)
        assert compared(np.array([[5.0, 1, 2, 20]]), np.array([[6.0, 1, 1, 20]]))["kappa"]["difference_95"] is None

    def test_what_has_no_meaning_is_none_and_not_nought(self) -> None:
        row = measured(np.array([[0.0, 0, 0, 20]] * 5))
        assert {name: value for name, value in row.items() if value is not None} == {}
