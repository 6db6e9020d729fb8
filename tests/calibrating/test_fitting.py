"""A fit learns from features by name, and is measured on queries that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra `calibrate`")

from relabel.calibrating.fitting import Model, check_enough, cross_validated, relevant_of, usable, values_of
from relabel.calibrating.pairs import Pair, Pairs
from relabel.errors import InputError
from tests.calibrating.shared import CHEAP, drawn


def fit(pairs: Sequence[Pair], names: Sequence[str]) -> Model:
    return Model(names, values_of(pairs, names), relevant_of(pairs))


def test_the_numbers_of_a_part_say_what_the_model_says() -> None:
    pairs = drawn().pairs
    model = fit(pairs, CHEAP)
    part = model.part(0.5)
    expected = model.probability(values_of(pairs, CHEAP))
    assert [part.probability(pair.cheap) for pair in pairs] == pytest.approx(expected.tolist(), abs=1e-6)


def test_so_they_do_where_features_are_missing() -> None:
    pairs = [
        replace(pair, cheap={"near.score": pair.cheap["near.score"]}) if place % 3 == 0 else pair
        for place, pair in enumerate(drawn().pairs)
    ]
    part = fit(pairs, CHEAP).part(0.5)
    missing = {one.feature: one.missing for one in part.weights}
    assert missing["near.score"] is None
    assert missing["cheap.grade"] is not None
    expected = fit(pairs, CHEAP).probability(values_of(pairs, CHEAP))
    assert [part.probability(pair.cheap) for pair in pairs] == pytest.approx(expected.tolist(), abs=1e-6)


def test_a_feature_that_a_fold_never_has_counts_for_nothing_there() -> None:
    pairs = [
        replace(pair, cheap=pair.cheap if pair.query_id == "q0" else {"cheap.grade": pair.cheap["cheap.grade"]})
        for pair in drawn().pairs
    ]
    assert ((cross_validated(pairs, CHEAP) > 0.5) == relevant_of(pairs)).mean() > 0.7


def test_a_pair_is_judged_by_a_model_that_has_not_seen_its_query() -> None:
    """Each query has a feature of its own that gives its label away: of no use to who has not seen the query."""
    rng = np.random.default_rng(0)
    names = [f"q.{query}" for query in range(20)]
    pairs = []
    for query in range(20):
        for place in range(20):
            relevant = bool(rng.random() < 0.5)
            cheap = dict.fromkeys(names, 0.0) | {f"q.{query}": 1.0 if relevant else -1.0}
            pairs.append(Pair(f"{query}", f"{place}", cheap, {}, None, relevant))
    seen = fit(pairs, names).probability(values_of(pairs, names))
    unseen = cross_validated(pairs, names)
    relevant_pairs = relevant_of(pairs)
    assert ((seen > 0.5) == relevant_pairs).all()
    assert ((unseen > 0.5) == relevant_pairs).mean() < 0.65


def test_the_order_of_the_rows_changes_nothing() -> None:
    pairs = drawn()
    turned = Pairs(pairs.pairs[::-1], "strong", pairs.cheap, pairs.strong)
    assert np.array_equal(cross_validated(pairs.pairs, CHEAP), cross_validated(turned.pairs, CHEAP))


def test_a_feature_that_is_the_same_for_all_is_left_out() -> None:
    pairs = [replace(pair, cheap={**pair.cheap, "copy.score": 0.0}) for pair in drawn().pairs]
    assert usable(pairs, [*CHEAP, "copy.score", "nobody.has"]) == CHEAP


@pytest.mark.parametrize(("queries", "each"), [(2, 50), (20, 1), (4, 4)])
def test_too_little_is_refused_with_what_would_do(queries: int, each: int) -> None:
    with pytest.raises(InputError, match="a fit needs 10 of each kind and 5 queries at least"):
        check_enough(drawn(queries, each).pairs)


def test_relevant_pairs_of_one_query_are_refused() -> None:
    pairs = [replace(pair, relevant=pair.query_id == "q0") for pair in drawn().pairs]
    with pytest.raises(InputError, match="all of too few queries; label more queries"):
        cross_validated(pairs, CHEAP)
