"""How sure a figure is: agreement of judges, shares with intervals over queries, paired tests.

Candidates of one query are alike, so that queries, and not candidates, are what is drawn at random: all intervals are
over queries, as far as queries (or bundles of them, see `relabel.report.tables`) are told apart in the counts.
"""

from __future__ import annotations

import math
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


def share_interval(hits: float, of: float, clusters: int, variance: float | None) -> tuple[float, float]:
    """The 95 % interval of a share by Wilson's score, at the effective sample size of a draw of clusters.

    `variance` is that of the share as `cluster_variance` has it. Where it tells nothing (no hit, nothing but hits, one
    cluster), each cluster counts as one draw. Source: Dean and Pagano, J. Surv. Stat. Methodol. 3 (2015) 484-503.
    """
    if not of:
        return 0.0, 1.0
    share = hits / of
    size = share * (1 - share) / variance if variance else float(clusters)
    size = max(min(size, of), 1.0)
    middle, spread = share + _Z**2 / (2 * size), _Z * math.sqrt(share * (1 - share) / size + (_Z / size) ** 2 / 4)
    below = 1 + _Z**2 / size
    return max((middle - spread) / below, 0.0), min((middle + spread) / below, 1.0)


def cluster_variance(
    clusters: int, hits: float, of: float, squares: float, products: float, sizes: float
) -> float | None:
    """The variance of a share of candidates where clusters are drawn, by linearisation of the ratio.

    `hits` and `of` are sums over the clusters of x and n; `squares`, `products` and `sizes` those of x², x·n and n².
    """
    if clusters < 2 or not of:
        return None
    share = hits / of
    residuals = squares - 2 * share * products + share**2 * sizes
    return max(residuals, 0.0) * clusters / (clusters - 1) / of**2


def resampled(counts: Counts, resamples: int = RESAMPLES) -> Counts:
    """The summed counts (resamples, …) of clusters (the first axis) drawn anew, alike for as many clusters."""
    clusters = len(counts)
    drawn = np.random.default_rng(0).multinomial(clusters, np.full(clusters, 1 / clusters), resamples)
    return np.tensordot(drawn, counts, axes=1)


def interval(values: Floats) -> list[float]:
    """The middle 95 % of resampled values; those without meaning are left out."""
    return [round(float(value), 4) for value in np.nanquantile(values, (0.025, 0.975))]


def agreement(counts: Counts) -> dict[str, Any]:
    """How far two judges agree, from (clusters, labels, labels) counts: share agreed, and Cohen's kappa with its 95 %
    interval by a bootstrap over clusters. None where it has no meaning; so is kappa where one judge gave one label only
    (it is 0 then, however often they agree).
    """
    whole = counts.sum(axis=0)
    constant = any(np.count_nonzero(whole.sum(axis=axis)) < 2 for axis in (0, 1))
    value = None if constant else kappa(whole)
    spread = kappas(resampled(counts)) if value is not None and len(counts) > 1 else np.array([np.nan])
    known = not np.isnan(spread).all()
    total = int(whole.sum())
    return {
        "agreed": round(float(np.trace(whole)) / total, 4) if total else None,
        "kappa": None if value is None else round(value, 4),
        "kappa_95": interval(spread) if known else None,
    }


def found_metrics(counts: Counts) -> dict[str, Any]:
    """Cohen's kappa, precision, recall and F1 of (…, 4) counts of true and false positives, false and true negatives;
    0 where there is nothing to divide by.
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
    """The metrics of (clusters, 4) counts, each with its 95 % interval by a bootstrap over clusters."""
    whole, spread = found_metrics(counts.sum(axis=0)), found_metrics(resampled(counts))
    row: dict[str, Any] = {name: round(float(value), 4) for name, value in whole.items()}
    return row | {f"{name}_95": interval(values) for name, values in spread.items()}


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
        difference = _difference(whole, name)
        chance = np.abs(_difference(exchanged, name))
        found[name] = {
            "difference": round(float(difference), 4),
            "difference_95": interval(np.asarray(_difference(spread, name))),
            "p": round(float((1 + np.count_nonzero(chance >= abs(difference) - 1e-12)) / (1 + len(chance))), 4),
        }
    return found


def _difference(pairs: Counts, name: str) -> Any:
    return found_metrics(pairs[..., 1, :])[name] - found_metrics(pairs[..., 0, :])[name]


def _exchanged(one: Counts, other: Counts) -> Counts:
    """Sums of the counts (permutations, 2, 4) with the two sides exchanged in half of the clusters."""
    kept = np.random.default_rng(0).integers(0, 2, (PERMUTATIONS, len(one)), dtype=np.int8)
    total, apart = one + other, one - other
    first = (total.sum(axis=0) + (2 * kept.astype(np.float32) - 1) @ apart) / 2
    return np.stack([first, total.sum(axis=0) - first], axis=1)


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
