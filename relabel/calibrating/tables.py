"""Labelled pairs from verdict tables: rows of `query_id, docid, tier, judge, sample, label|score`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from relabel.calibrating.pairs import Pair, Pairs, count_unjudged
from relabel.errors import ConfigError, InputError
from relabel.labels import Name, is_number, name_of, rows_of
from relabel.records import Verdict
from relabel.signals import GRADE, SCORE, features, fields


@dataclass(slots=True)
class _Said:
    """All that a tier said of a pair: votes, or scores."""

    votes: Counter[str] = field(default_factory=Counter)
    scores: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Table:
    """The verdicts on labelled pairs, by pair and tier; `labels` and `judges` are those seen of each tier,
    `scored` the tiers that give scores."""

    said: defaultdict[Name, dict[str, _Said]] = field(default_factory=lambda: defaultdict(dict))
    labels: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    judges: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    scored: set[str] = field(default_factory=set)
    subsets: dict[Name, str] = field(default_factory=dict)

    def add(self, name: Name, tier: str, judge: str, *, label: str | None = None, score: float | None = None) -> None:
        """One verdict; without label and score an abstention."""
        said = self.said[name].setdefault(tier, _Said())
        self.judges[tier].add(judge)
        if label is not None:
            said.votes[label] += 1
            self.labels[tier].add(label)
        elif score is not None:
            said.scores.append(score)
            self.scored.add(tier)

    def features(self, name: Name, tiers: Collection[str]) -> dict[str, float]:
        """What these tiers said of a pair."""
        verdicts = [verdict for tier in tiers if (verdict := self._verdict(name, tier)) is not None]
        return features(tuple(verdicts), {tier: self.ordered(tier) for tier in tiers})

    def ordered(self, tier: str) -> list[str]:
        """The labels of a tier; nobody knows which is the least."""
        return (
            ["", *sorted(self.labels[tier])]
            if fields(list(self.labels[tier])) != (GRADE,)
            else sorted(self.labels[tier])
        )

    def finds(self, name: Name, tier: str, found: Collection[str], relevant: float) -> bool | None:
        """Whether a tier's verdict on a pair says that it is relevant: by its mean grade, or by most of its labels."""
        said = self.said[name].get(tier)
        if said is None or not said.votes:
            return None
        total = said.votes.total()
        if found:
            return sum(count for label, count in said.votes.items() if label in found) * 2 > total
        return sum(float(label) * count for label, count in said.votes.items()) / total >= relevant

    def _verdict(self, name: Name, tier: str) -> Verdict | None:
        said = self.said[name].get(tier)
        if said is None or not (said.votes or said.scores):
            return None
        if said.votes:
            return Verdict(tier, "", None, min(said.votes), votes=said.votes)
        score = sum(said.scores) / len(said.scores)
        return Verdict(tier, "", None, "", score=score, score_kind="similarity")


def from_tables(
    paths: Sequence[str], labels: Mapping[Name, bool], strong: str, found: Collection[str], relevant: float
) -> Pairs:
    """The labelled pairs of verdict tables. `found` are the strong tier's labels that mean relevant; without them it
    gives grades. Raises RelabelError.
    """
    table = Table()
    for path in paths:
        for line, row in rows_of(path):
            _add(table, path, line, row, labels)
    return pairs_of(table, labels, strong, found, relevant)


def pairs_of(table: Table, labels: Mapping[Name, bool], strong: str, found: Collection[str], relevant: float) -> Pairs:
    """The labelled pairs that the strong tier has judged."""
    tiers = sorted(table.judges)
    if strong not in tiers:
        raise ConfigError(f"--strong {strong}: no such tier; the table has {', '.join(tiers) or 'none'}")
    if not table.labels[strong]:
        raise ConfigError(f"--strong {strong}: gives scores or nothing; the strong tier must give labels or grades")
    for tier in tiers:
        if table.labels[tier] and tier in table.scored:
            raise InputError(f"tier {tier!r} gives labels in some rows and scores in others; name two tiers")
    if unknown := set(found) - table.labels[strong]:
        known = ", ".join(sorted(table.labels[strong])) or "none"
        raise ConfigError(f"--found {', '.join(sorted(unknown))}: {strong} gives no such label; it gives {known}")
    if not found and fields(list(table.labels[strong])) != (GRADE,):
        raise ConfigError(
            f"--found: the labels of {strong} are no grades ({', '.join(sorted(table.labels[strong]))}): say which of "
            "them mean that a candidate is relevant"
        )
    cheap = [tier for tier in tiers if tier != strong]
    judged = [name for name in labels if strong in table.said.get(name, {})]
    pairs = [
        Pair(
            *name,
            table.features(name, cheap),
            table.features(name, [strong]),
            table.finds(name, strong, found, relevant),
            labels[name],
            table.subsets.get(name, ""),
        )
        for name in judged
    ]
    result = Pairs(
        pairs,
        strong,
        [f"{tier}.{name}" for tier in cheap for name in _fields(table, tier)],
        [f"{strong}.{name}" for name in _fields(table, strong)],
    )
    if left := count_unjudged(labels, pairs):
        result.notes.append(f"{left:,} of {len(labels):,} labelled pairs have no verdict of {strong} and are left out")
    return result


def _fields(table: Table, tier: str) -> Sequence[str]:
    return fields(table.ordered(tier)) if table.labels[tier] else (SCORE,)


def _add(table: Table, path: str, line: int, row: Mapping[str, Any], labels: Mapping[Name, bool]) -> None:
    name = name_of(path, line, row)
    for key in ("tier", "judge"):
        if not isinstance(row.get(key), str) or not row[key]:
            raise InputError(f"{path}, line {line}: {key} is {row.get(key)!r}, expected a name")
    label, score = row.get("label"), row.get("score")
    if score is not None and not is_number(score):
        raise InputError(f"{path}, line {line}: score is {score!r}, expected a number or null")
    if label is not None and not isinstance(label, str) and not is_number(label):
        raise InputError(f"{path}, line {line}: label is {label!r}, expected a text, a grade or null")
    if label is not None and score is not None:
        raise InputError(f"{path}, line {line}: has a label and a score, expected one of them")
    if name in labels:
        table.add(name, row["tier"], row["judge"], label=None if label is None else _label(label), score=score)
        table.subsets.setdefault(name, str(row.get("subset") or ""))


def _label(label: str | float) -> str:
    return f"{label:g}" if isinstance(label, (int, float)) else label
