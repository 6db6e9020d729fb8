"""How sure a figure is: agreement of judges, shares with intervals over queries, paired tests.

Candidates of one query are alike, so that queries, and not candidates, are what is drawn at random: all intervals are
over queries, as far as queries (or bundles of them, see `relabel.report.queries`) are told apart in the counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

RESAMPLES = 1000
PERMUTATIONS = 10_000
_Z = 1.959963984540054
"""Of the standard normal distribution, 95 % lie within."""


def kappa(table: Counts) -> float | None:
    """Cohen's kappa of a square table of counts, a row for each label of one judge and a column for each of the other.

    None where chance alone makes them agree always: no label but one was given.
    """
    value = float(kappas(np.asarray(table, dtype=np.float64)[None])[0])
    return None if math.isnan(value) else value


def kappas(tables: Counts) -> Floats:
    """Cohen's kappa of each of (…, labels, labels) tables; NaN where it has no meaning."""
    tables = np.asarray(tables, dtype=np.float64)
    total = tables.sum(axis=(-2, -1))
    agreed = np.trace(tables, axis1=-2, axis2=-1)
    chance = (tables.sum(axis=-1) * tables.sum(axis=-2)).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        below = total**2 - chance
        return np.where(below > 0, (total * agreed - chance) / below, np.nan)


@dataclass(frozen=True)
class Sums:
    """What a share and its interval are made from, as sums over clusters: of x hits among n, of x², x·n and n²."""

    clusters: int
    hits: int
    of: int
    squares: int
    products: int
    sizes: int


def share_interval(sums: Sums) -> tuple[float, float]:
    """The 95 % interval of a share: Wilson's score at the effective sample size of a draw of clusters (Dean and Pagano,
    J. Surv. Stat. Methodol. 3, 2015), with Student's t in the place of the normal (Korn and Graubard, Surv. Methodol.
    24, 1998). Clusters of unlike size count as fewer (Kish's number). Where the variance tells nothing (no hit, nothing
    but hits, one cluster), each of these counts as one draw.
    """
    if not sums.of:
        return 0.0, 1.0
    share, kish = sums.hits / sums.of, sums.of**2 / sums.sizes
    size = kish
    if sums.clusters > 1 and 0 < sums.hits < sums.of:
        variance = cluster_variance(sums)
        size = share * (1 - share) / variance if variance > 1e-12 * share else float(sums.of)
        size *= (_Z / student(max(kish - 1, 1))) ** 2
    size = max(min(size, sums.of), 1.0)
    middle, spread = share + _Z**2 / (2 * size), _Z * math.sqrt(share * (1 - share) / size + (_Z / size) ** 2 / 4)
    below = 1 + _Z**2 / size
    return max((middle - spread) / below, 0.0), min((middle + spread) / below, 1.0)


def student(freedom: float) -> float:
    """Within how many standard errors 95 % of Student's t lie, for 1 degree of freedom or more; to three digits."""
    if freedom < 5:
        return float(np.interp(1 / freedom, (1 / 5, 1 / 4, 1 / 3, 1 / 2, 1), (2.5706, 2.7764, 3.1824, 4.3027, 12.7062)))
    z = _Z
    terms = ((z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))


def cluster_variance(sums: Sums) -> float:
    """The variance of a share of candidates where two clusters or more are drawn, by linearisation of the ratio."""
    share = sums.hits / sums.of
    residuals = sums.squares - 2 * share * sums.products + share**2 * sums.sizes
    return max(residuals, 0.0) * sums.clusters / (sums.clusters - 1) / sums.of**2


def resampled(counts: Counts, resamples: int = RESAMPLES) -> Counts:
    """The summed counts (resamples, …) of clusters (the first axis) drawn anew, alike for as many clusters."""
    clusters = len(counts)
    drawn = np.random.default_rng(0).multinomial(clusters, np.full(clusters, 1 / clusters), resamples)
    return np.tensordot(drawn, counts, axes=1)


def interval(values: Floats, clusters: int) -> list[float] | None:
    """The middle 95 % of values resampled from so many clusters; those without meaning are left out. None for one
    cluster, or where nothing is left.
    """
    if clusters < 2 or np.isnan(values).all():
        return None
    return [round(float(value), 4) for value in np.nanquantile(values, (0.025, 0.975))]


def known(value: Any) -> float | None:
    """A figure to four digits, or None where it has no meaning."""
    return None if math.isnan(value) else round(float(value), 4)


def agreement(counts: Counts) -> dict[str, Any]:
    """How far two judges agree, from (clusters, labels, labels) counts: share agreed, and Cohen's kappa with its 95 %
    interval by a bootstrap over clusters. None where it has no meaning; so is kappa where one judge gave one label only
    (it is 0 then, however often they agree).
    """
    whole = counts.sum(axis=0)
    constant = any(np.count_nonzero(whole.sum(axis=axis)) < 2 for axis in (0, 1))
    value = None if constant else kappa(whole)
    spread = kappas(resampled(counts)) if value is not None else np.array([np.nan])
    total = int(whole.sum())
    return {
        "agreed": round(float(np.trace(whole)) / total, 4) if total else None,
        "kappa": None if value is None else round(value, 4),
        "kappa_95": interval(spread, len(counts)),
    }


def found_metrics(counts: Counts) -> dict[str, Any]:
    """Cohen's kappa, precision, recall and F1 of (…, 4) counts of true and false positives, false and true negatives;
    NaN where there is nothing to divide by.
    """
    tp, fp, fn, tn = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    total = tp + fp + fn + tn
    agreed = _ratio(tp + tn, total)
    chance = _ratio((tp + fp) * (tp + fn) + (fn + tn) * (fp + tn), total**2)
    return {
        "kappa": _ratio(agreed - chance, 1 - chance),
        "precision": _ratio(tp, tp + fp),
        "recall": _ratio(tp, tp + fn),
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
    }


def measured(counts: Counts) -> dict[str, Any]:
    """The metrics of (clusters, 4) counts, each with its 95 % interval by a bootstrap over clusters; None where there
    is nothing to divide by, and for the interval of one cluster.
    """
    whole, spread = found_metrics(counts.sum(axis=0)), found_metrics(resampled(counts))
    row: dict[str, Any] = {name: known(value) for name, value in whole.items()}
    return row | {f"{name}_95": interval(values, len(counts)) for name, values in spread.items()}


def compared(one: Counts, other: Counts) -> dict[str, dict[str, Any]]:
    """How much more `other` has than `one` of each metric, from (clusters, 4) counts of the same clusters: the
    difference, its 95 % interval by a paired bootstrap, and p of Fisher's randomisation test, which exchanges the two
    cluster by cluster (two-sided; Smucker, Allan and Carterette, CIKM 2007).
    """
    both = np.stack([one, other], axis=1)
    whole, spread = both.sum(axis=0), resampled(both)
    exchanged = _exchanged(one, other)
    found = {}
    for name in found_metrics(whole[0]):
        difference = known(_difference(whole, name))
        chance = np.abs(_difference(exchanged, name))
        chance = chance[~np.isnan(chance)]
        found[name] = {
            "difference": difference,
            "difference_95": interval(np.asarray(_difference(spread, name)), len(one)),
            "p": None if difference is None else round(_as_far(chance, float(_difference(whole, name))), 4),
        }
    return found


def _as_far(chance: Floats, difference: float) -> float:
    """The share of differences by chance that are as far from 0."""
    return (1 + int(np.count_nonzero(chance >= abs(difference) - 1e-12))) / (1 + len(chance))


def _difference(pairs: Counts, name: str) -> Any:
    return found_metrics(pairs[..., 1, :])[name] - found_metrics(pairs[..., 0, :])[name]


def _exchanged(one: Counts, other: Counts) -> Counts:
    """Sums of the counts (permutations, 2, 4) with the two sides exchanged in half of the clusters."""
    kept = np.random.default_rng(0).integers(0, 2, (PERMUTATIONS, len(one)), dtype=np.int8)
    total, apart = one + other, one - other
    first = (total.sum(axis=0) + (2 * kept.astype(np.float32) - 1) @ apart) / 2
    return np.stack([first, total.sum(axis=0) - first], axis=1)


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
