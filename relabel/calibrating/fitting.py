"""Features to probability: a logistic regression, trained and cross-validated by query with scikit-learn.

Nothing richer has earned its place: on TREC DL 2020 gradient boosting (scikit-learn's, depth 3) was worse with every
set of signals, AUC 0.832 against 0.839 by screens alone, 0.850 against 0.864 with cheap votes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler

from relabel.calibrating.pairs import Pair
from relabel.calibration import Part, Weight
from relabel.errors import InputError

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]

FOLDS = 5
_FEWEST = 10
"""Pairs of each kind, relevant or not, that a fit needs; fewer say nothing."""


class Model:
    """A logistic regression on scaled features; what is missing counts for as much as its absence has shown."""

    def __init__(self, names: Sequence[str], values: Floats, relevant: Flags) -> None:
        """`values` has a row for each pair and a column for each name; NaN where a feature is missing."""
        self._names = names
        with np.errstate(invalid="ignore"):  # in a fold a feature may be missing throughout
            scaler = StandardScaler().fit(values)
        self._mean, self._scale = np.nan_to_num(scaler.mean_), np.nan_to_num(scaler.scale_, nan=1.0)
        self._absent: Flags = np.array(np.isnan(values).any(axis=0))
        self._model = LogisticRegression(max_iter=1000).fit(self._inputs(values), relevant)

    def probability(self, values: Floats) -> Floats:
        """P(false negative) of each row."""
        found: Floats = self._model.predict_proba(self._inputs(values))[:, 1]
        return found

    def part(self, threshold: float) -> Part:
        """The model as numbers."""
        coefficients = self._model.coef_[0]
        absent = iter(coefficients[len(self._names) :])
        weights = [
            Weight(
                feature=name,
                mean=_rounded(mean),
                scale=_rounded(scale),
                weight=_rounded(weight),
                missing=_rounded(next(absent)) if missing else None,
            )
            for name, mean, scale, weight, missing in zip(
                self._names,
                self._mean,
                self._scale,
                coefficients[: len(self._names)],
                self._absent,
                strict=True,
            )
        ]
        return Part(intercept=_rounded(self._model.intercept_[0]), weights=weights, threshold=_rounded(threshold))

    def _inputs(self, values: Floats) -> Floats:
        scaled = np.nan_to_num((values - self._mean) / self._scale, nan=0.0)
        return np.column_stack([scaled, np.isnan(values)[:, self._absent]])


def cross_validated(pairs: Sequence[Pair], names: Sequence[str], *, combined: bool = False) -> Floats:
    """P(false negative) of each pair by a model that has seen no pair of its query. Raises InputError."""
    values, relevant = values_of(pairs, names, combined=combined), relevant_of(pairs)
    found = np.zeros(len(pairs))
    for train, test in folds(pairs):
        found[test] = Model(names, values[train], relevant[train]).probability(values[test])
    return found


def folds(pairs: Sequence[Pair]) -> Iterator[tuple[Places, Places]]:
    """The places of the pairs to train on and to test on, all pairs of a query on one side. Raises InputError."""
    relevant, queries = relevant_of(pairs), numbered_queries(pairs)
    of_each = [len(set(queries[relevant])), len(set(queries[~relevant]))]
    if min(of_each) < 2:
        raise InputError("the relevant pairs, or the others, are all of too few queries; label more queries")
    parts = StratifiedGroupKFold(min(FOLDS, *of_each), shuffle=True, random_state=0)
    for train, test in parts.split(queries, relevant, queries):
        if relevant[train].all() or not relevant[train].any():
            raise InputError("the relevant pairs are of too few queries to cross-validate by query; label more queries")
        yield train, test


def check_enough(pairs: Sequence[Pair]) -> None:
    """Refuse what nothing can be learnt from. Raises InputError."""
    relevant, queries = relevant_of(pairs), {pair.query_id for pair in pairs}
    positives, negatives = int(relevant.sum()), int((~relevant).sum())
    if not pairs:
        raise InputError(
            "no label belongs to a candidate that the strong tier has judged: do query_id and docid agree?"
        )
    if min(positives, negatives) < _FEWEST or len(queries) < FOLDS:
        raise InputError(
            f"found {positives:,} relevant and {negatives:,} other labelled pairs of {len(queries):,} queries; a fit "
            f"needs {_FEWEST} of each kind and {FOLDS} queries at least, and 200 pairs of 30 queries to be of use"
        )


def usable(pairs: Sequence[Pair], names: Sequence[str]) -> list[str]:
    """The features that are not the same for all pairs."""
    return [name for name in names if len({pair.cheap.get(name, pair.strong.get(name)) for pair in pairs}) > 1]


def values_of(pairs: Sequence[Pair], names: Sequence[str], *, combined: bool = False) -> Floats:
    """The features of the pairs, those of the strong judge only if they are `combined`."""
    known = [{**pair.cheap, **pair.strong} if combined else pair.cheap for pair in pairs]
    return np.array([[one.get(name, np.nan) for name in names] for one in known], dtype=np.float64).reshape(
        len(pairs), len(names)
    )


def numbered_queries(pairs: Sequence[Pair]) -> Places:
    """The number of each pair's query, in the order of their ids."""
    numbers = {query_id: number for number, query_id in enumerate(sorted({pair.query_id for pair in pairs}))}
    return np.array([numbers[pair.query_id] for pair in pairs], dtype=np.int64)


def relevant_of(pairs: Sequence[Pair]) -> Flags:
    """What people say of the pairs."""
    return np.array([pair.relevant for pair in pairs], dtype=np.bool_)


def _rounded(value: float) -> float:
    return float(f"{value:.9g}")
