"""What became of a run's candidates, how far its judges agree, and what that cost: from its tables alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from relabel.calibration import UNSURE
from relabel.report.facts import TierFacts
from relabel.report.queries import DECIDED, FOUND, JUDGED, NAMED, Tables, Trail, band_name, share
from relabel.statistics import Sums, agreement, measured

_ABSTAINED = "abstained"
_NO_OPINION = (None, UNSURE)
_SCORE_PARTS = 10
_RATE = {"false_negatives": (FOUND, DECIDED)}
_CHANGES: dict[str, str | tuple[str, str]] = {
    "relabel": "action = 'relabel'",
    "drop": "action = 'drop'",
    "keep": "action = 'keep'",
    "undecided": "rule = 'undecided'",
    **_RATE,
}


def audit(tables: Tables, facts: Sequence[TierFacts], report: Mapping[str, Any]) -> dict[str, Any]:
    """The audit of a run: keys of report.json beside those of the counts, which `report` holds."""
    trails = tables.trails()
    return {
        "changes": changes(tables, report),
        "cleaned": left(tables, report),
        "by_position": by_position(tables, facts),
        "by_half": by_half(tables, facts),
        "by_score": by_score(tables),
        "funnel": [funnel(one, facts, trails) for one in facts],
        "agreement": agreements(tables, facts),
        "suspect_positives": suspects(tables),
        "human": human(tables, facts),
    }


def changes(tables: Tables, report: Mapping[str, Any]) -> dict[str, Any]:
    """Judged candidates by action, and instances touched, of all and of each subset, with intervals over queries.

    `candidates` are those judged: what was left unjudged, or still waits for a reply, says nothing. Of these, false
    negatives are counted among the decided: an abstention is no true negative.
    """
    nothing: dict[str, Any] = {"candidates": 0, "false_negatives_among": 0}
    for name in _CHANGES:
        nothing |= share(name, Sums(0, 0, 0, 0, 0, 0))
    whole = tables.shares("''", _CHANGES, JUDGED).get("", nothing)
    subsets = tables.shares("subset", _CHANGES, JUDGED)
    counted = report["subsets"]
    total = {name: sum(one[name] for one in counted.values()) for name in ("changed", "removed", "instances")}
    return {
        "queries": tables.queries,
        "all": whole | _touched(total),
        "subsets": {name: subsets.get(name, nothing) | _touched(one) for name, one in counted.items()},
    }


def left(tables: Tables, report: Mapping[str, Any]) -> dict[str, int]:
    """What the cleaned set is made of: instances, positives that are new in it, negatives that it has lost, those that
    it keeps, and instances that have none left of those they had.
    """
    counts = tables.ask("SELECT action, count(*) FROM decisions WHERE instance_action = 'keep' GROUP BY action")
    actions = dict(counts)
    (emptied,) = tables.ask(
        "SELECT count(*) FROM (SELECT line, query_id FROM decisions WHERE instance_action = 'keep' GROUP BY ALL "
        "HAVING count(*) FILTER (WHERE action = 'keep') = 0)"
    )[0]
    return {
        "instances": report["instances"]["cleaned"],
        "new_positives": actions.get("relabel", 0),
        "dropped": actions.get("drop", 0),
        "negatives": actions.get("keep", 0),
        "emptied": emptied,
    }


def _touched(counted: Mapping[str, int]) -> dict[str, Any]:
    """Instances that are not as they were, each one draw."""
    of, hits = counted["instances"], counted["changed"]
    touched = share("touched", Sums(of, hits, of, hits, hits, of))
    return {"instances": of, **touched, "removed": counted["removed"]}


def by_position(tables: Tables, facts: Sequence[TierFacts]) -> list[dict[str, Any]]:
    """False negatives, and what each tier flagged of what it judged, by the place among the mined negatives."""
    found = tables.shares("band", _flagged(facts), JUDGED)
    return [{"positions": band_name(band), **_by_tier(row, facts)} for band, row in found.items()]


def by_half(tables: Tables, facts: Sequence[TierFacts]) -> dict[str, dict[str, Any]]:
    """The same for the first and the second half of each list of two or more."""
    found = tables.shares("early", _flagged(facts), JUDGED, "placed")
    return {
        name: _by_tier(found[early], facts) for name, early in (("first", True), ("second", False)) if early in found
    }


def _flagged(facts: Sequence[TierFacts]) -> dict[str, tuple[str, str]]:
    return _RATE | {f"flagged{n}": (f"f{n}", f"j{n}") for n in range(len(facts))}


def _by_tier(row: dict[str, Any], facts: Sequence[TierFacts]) -> dict[str, Any]:
    """A row with what each tier flagged under the tier's own name, left out where it judged nothing."""
    tiers = {}
    for n, one in enumerate(facts):
        own = {name: row.pop(f"flagged{n}{name}") for name in ("", "_share", "_95", "_among")}
        if own["_among"]:
            tiers[one.name] = {
                "candidates": own["_among"],
                "flagged": own[""],
                "flagged_share": own["_share"],
                "flagged_95": own["_95"],
            }
    return row | {"tiers": tiers}


def by_score(tables: Tables) -> list[dict[str, Any]]:
    """False negatives by the score that the mining gave, in parts of like size, lowest first; empty without scores."""
    cuts = tables.cut_points("mined_score", _SCORE_PARTS)
    if not cuts:
        return []
    cases = " ".join(f"WHEN mined_score < {cut!r}::DOUBLE THEN {n}" for n, cut in enumerate(cuts))
    part = f"CASE {cases} ELSE {len(cuts)} END"
    found = tables.shares(part, _RATE, f"{JUDGED} AND isfinite(mined_score)")
    asked = (
        f"SELECT {part} AS g, min(mined_score), max(mined_score) FROM decisions WHERE isfinite(mined_score) GROUP BY g"
    )
    ends = {part: (low, high) for part, low, high in tables.ask(asked)}
    return [{"from": ends[part][0], "to": ends[part][1], **row} for part, row in found.items()]


def funnel(tier: TierFacts, facts: Sequence[TierFacts], trails: Sequence[Trail]) -> dict[str, Any]:
    """What came to a tier, what it said, what went on, and what was decided about the rest."""
    names = [one.name for one in facts]
    later = set(names[names.index(tier.name) + 1 :])
    labels: Counter[str] = Counter()
    ended: Counter[str] = Counter()
    passed_on = 0
    for trail in trails:
        if tier.name not in trail.said:
            continue
        labels[trail.said[tier.name] or _ABSTAINED] += trail.candidates
        if later & trail.said.keys():
            passed_on += trail.candidates
        else:
            ended[trail.action] += trail.candidates
    abstained = labels.pop(_ABSTAINED, 0)
    return {
        "tier": tier.name,
        "judge": tier.judge,
        "model": tier.model,
        "asks": tier.asks,
        "candidates": labels.total() + abstained,
        "labels": {label: labels[label] for label in tier.labels if labels[label]},
        "flags": sorted(tier.flags),
        "flagged": sum(labels[label] for label in tier.flags),
        "abstained": abstained,
        "passed_on": passed_on,
        "ended": {action: ended[action] for action in ("relabel", "drop", "keep")},
    }


def agreements(tables: Tables, facts: Sequence[TierFacts]) -> list[dict[str, Any]]:
    """For each two tiers that judged the same candidates: their labels against each other, and Cohen's kappa; of the
    labels if both give the same ones, else of what they flag.
    """
    counted = tables.trails_by_cluster()
    found = []
    for (n, one), (m, other) in combinations(enumerate(facts), 2):
        row = _agreement(tables, counted, one, other)
        if row is not None:
            upheld = tables.shares("''", {"upheld": f"f{m}"}, f"f{n} AND j{m}").get("")
            found.append(row | {"upheld": upheld})
    return found


def _agreement(
    tables: Tables, counted: Sequence[tuple[Any, int, int]], one: TierFacts, other: TierFacts
) -> dict[str, Any] | None:
    same = list(one.labels) == list(other.labels)
    confusion: Counter[tuple[str, str]] = Counter()
    cells: Counter[tuple[Any, int, int]] = Counter()
    for cluster, number, count in counted:
        said = tables.said(number)
        if one.name not in said or other.name not in said:
            continue
        first, second = said[one.name], said[other.name]
        confusion[first or _ABSTAINED, second or _ABSTAINED] += count
        if first not in _NO_OPINION and second not in _NO_OPINION:
            cells[cluster, _place(first, one, same), _place(second, other, same)] += count
    if not confusion:
        return None
    rows, columns = (
        [label for label in (*tier.labels, _ABSTAINED) if any(pair[side] == label for pair in confusion)]
        for side, tier in enumerate((one, other))
    )
    return {
        "tiers": [one.name, other.name],
        "candidates": sum(cells.values()),
        "asked": confusion.total(),
        "rows": rows,
        "columns": columns,
        "confusion": [[confusion[row, column] for column in columns] for row in rows],
        "of": "labels" if same else "flags",
        **agreement(square(cells, len(one.labels) if same else 2)),
    }


def _place(label: str | None, tier: TierFacts, by_label: bool) -> int:
    return tier.labels.index(label or "") if by_label else int(label in tier.flags)


def square(cells: Mapping[tuple[Any, int, int], int], size: int) -> np.ndarray[Any, Any]:
    """Counts by cluster, row and column as an array (clusters, size, size)."""
    clusters = {cluster: place for place, cluster in enumerate(sorted({cell[0] for cell in cells}))}
    counts = np.zeros((max(len(clusters), 1), size, size))
    for (cluster, row, column), count in cells.items():
        counts[clusters[cluster], row, column] += count
    return counts


def suspects(tables: Tables) -> dict[str, dict[str, Any]]:
    """Positives in which no answer was found, by subset; empty where no judge was asked about positives."""
    if not tables.has_positives:
        return {}
    hits = {"suspect": "coalesce(suspect, FALSE)", "abstained": "suspect IS NULL"}
    return tables.shares("subset", hits, table="positive_rows")


def human(tables: Tables, facts: Sequence[TierFacts]) -> dict[str, Any] | None:
    """How far decisions, and what each tier flagged, agree with what people say; None if they say nothing.

    `actions` says of each action how many of the labelled candidates people call relevant; `subsets` does so of the
    relabelled.
    """
    (labels,) = tables.ask("SELECT count(*) FROM labels")[0]
    if not labels:
        return None
    (matched, queries) = tables.ask("SELECT count(DISTINCT (query_id, docid)), count(DISTINCT cluster) FROM labelled")[
        0
    ]
    found: dict[str, Any] = {"labels": labels, "matched": matched, "queries": queries}
    if not matched:
        theirs, ours = (
            next(iter(tables.ask(f"SELECT query_id || ', ' || docid FROM {table} LIMIT 1")), ("none",))[0]
            for table in ("labels", "decisions")
        )
        return found | {"example": {"label": theirs, "candidate": ours}}
    relevant = {"relevant": "relevant"}
    tiers = {one.name: _against_people(tables, f"f{n}", f"j{n}") for n, one in enumerate(facts)}
    return found | {
        "actions": tables.shares("action", relevant, table="labelled"),
        "subsets": tables.shares("subset", relevant, "action = 'relabel'", "labelled"),
        "decisions": _against_people(tables, NAMED, "TRUE"),
        "tiers": {name: row for name, row in tiers.items() if row is not None},
    }


def _against_people(tables: Tables, found: str, where: str) -> dict[str, Any] | None:
    counted = tables.ask(
        f"SELECT cluster, ({found}) AS found, relevant, count(*) FROM labelled WHERE {where} GROUP BY ALL ORDER BY ALL"
    )
    if not counted:
        return None
    counts = outcomes(counted)
    return {"candidates": int(counts.sum()), "relevant": int(counts[:, (0, 2)].sum()), **measured(counts)}


def outcomes(counted: Sequence[tuple[Any, ...]]) -> np.ndarray[Any, Any]:
    """True and false positives, false and true negatives, a row for each cluster in their order, from rows of (cluster,
    found, relevant, count).
    """
    clusters = {cluster: row for row, cluster in enumerate(sorted({row[0] for row in counted}))}
    counts = np.zeros((len(clusters), 4))
    for cluster, found, relevant, count in counted:
        place = _OUTCOMES.index((found, relevant))
        counts[clusters[cluster], place] += count
    return counts


_OUTCOMES = ((True, True), (True, False), (False, True), (False, False))
