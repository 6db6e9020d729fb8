"""Counts of a run, kept while its records stream by. They add up: each record and each candidate counts once."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from relabel.forms import NO_ANSWER
from relabel.records import UNANSWERED, Decision, Outcome, Quarantined, Verdict, Verdicts

_POSITIVES = ("judged", "sound", "suspect", "abstained", "unanswered")
_NUMBER = re.compile(r"\d+")


@dataclass(slots=True)
class SubsetTally:
    """What became of one subset."""

    instances: Counter[str] = field(default_factory=Counter)
    candidates: Counter[str] = field(default_factory=Counter)
    changed: int = 0
    undecided: int = 0
    suspect_positives: int = 0
    weighed: Counter[str] = field(default_factory=Counter)
    """Candidates that a calibration has judged, by tier."""


@dataclass(slots=True)
class TierTally:
    """What one tier said: of how many candidates, with which labels, and why it abstained."""

    candidates: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    abstained: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    scores: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(slots=True)
class Tally:
    """All counts of a run. Memory grows with the number of subsets, labels and reasons, not of instances."""

    subsets: dict[str, SubsetTally] = field(default_factory=dict)
    tiers: dict[str, TierTally] = field(default_factory=dict)
    rules: Counter[str] = field(default_factory=Counter)
    instance_rules: Counter[str] = field(default_factory=Counter)
    quarantined: Counter[str] = field(default_factory=Counter)
    positives: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0

    def add(self, record: Outcome | Quarantined) -> None:
        """Count one record."""
        if isinstance(record, Quarantined):
            self.quarantined[_NUMBER.sub("N", record.reason)] += 1
            return
        subset = self.subsets.setdefault(record.instance.subset, SubsetTally())
        subset.instances[record.action] += 1
        subset.changed += record.changed
        if record.action == "remove":
            self.instance_rules[record.rule] += 1
        decisions = {id(decision): decision for decision in record.decisions}
        for decision, count in Counter(map(id, record.decisions)).items():
            self._add_decision(subset, decisions[decision], count)
        for verdicts in record.positives:
            self._add_positive(subset, verdicts)

    def _add_decision(self, subset: SubsetTally, decision: Decision, count: int) -> None:
        """Count a decision that so many candidates of an instance share."""
        subset.candidates[decision.action] += count
        subset.undecided += count * (decision.rule == "undecided")
        self.rules[decision.rule] += count
        for verdict in decision.verdicts:
            self._add_verdict(verdict, count)
            subset.weighed[verdict.tier] += count * (verdict.score_kind == "probability")
        if decision.verdicts and decision.verdicts[-1].abstained == UNANSWERED:
            self.unanswered += count

    def _add_positive(self, subset: SubsetTally, verdicts: Verdicts) -> None:
        if not verdicts:
            return
        if verdicts[-1].abstained == UNANSWERED:
            self.positives["unanswered"] += 1
            return
        suspect = is_suspect(verdicts)
        self.positives["judged"] += 1
        self.positives["suspect" if suspect else "abstained" if suspect is None else "sound"] += 1
        subset.suspect_positives += bool(suspect)

    def _add_verdict(self, verdict: Verdict, count: int) -> None:
        tier = self.tiers.setdefault(verdict.tier, TierTally())
        tier.candidates += count
        if verdict.label is not None:
            tier.labels[verdict.label] += count
            if verdict.score is not None and verdict.score_kind is not None:
                sums = tier.scores.setdefault(verdict.score_kind, {"n": 0, "sum": 0.0})
                sums["n"] += count
                sums["sum"] += count * verdict.score
        elif verdict.abstained == UNANSWERED:
            tier.unanswered += count
        else:
            tier.abstained[verdict.abstained or ""] += count

    @property
    def waiting(self) -> str:
        """What still waits for a reply, in words; nothing if all is answered."""
        counts = {"candidates": self.unanswered, "positives": self.positives["unanswered"]}
        return " and ".join(f"{count:,} {name}" for name, count in counts.items() if count)

    @property
    def instances(self) -> int:
        """All records read, the quarantined included."""
        return sum(sum(s.instances.values()) for s in self.subsets.values()) + sum(self.quarantined.values())

    def as_dict(self) -> dict[str, Any]:
        """The counts for report.json, with sums over the subsets."""
        instances: Counter[str] = Counter()
        candidates: Counter[str] = Counter()
        for subset in self.subsets.values():
            instances.update(subset.instances)
            candidates.update(subset.candidates)
        return {
            "instances": {
                "in": self.instances,
                "cleaned": instances["keep"],
                "removed": instances["remove"],
                "quarantined": sum(self.quarantined.values()),
                "changed": sum(subset.changed for subset in self.subsets.values()),
            },
            "candidates": {
                "in": sum(candidates.values()),
                **_actions(candidates),
                "undecided": sum(subset.undecided for subset in self.subsets.values()),
                "unanswered": self.unanswered,
            },
            "positives": {name: self.positives[name] for name in _POSITIVES},
            "rules": dict(sorted(self.rules.items())),
            "removed_by": dict(sorted(self.instance_rules.items())),
            "quarantined_for": dict(self.quarantined.most_common(50)),
            "subsets": {name: _subset(subset) for name, subset in sorted(self.subsets.items())},
            "tiers": {
                name: {
                    "candidates": tier.candidates,
                    "labels": dict(sorted(tier.labels.items())),
                    "abstained": dict(sorted(tier.abstained.items())),
                    "unanswered": tier.unanswered,
                    "mean_score": {
                        kind: round(sums["sum"] / sums["n"], 4) for kind, sums in sorted(tier.scores.items())
                    },
                }
                for name, tier in self.tiers.items()
            },
        }


def is_suspect(verdicts: Verdicts) -> bool | None:
    """Whether the last judge found no answer in a positive; None if it abstained, or was not asked."""
    last = verdicts[-1] if verdicts else None
    return None if last is None or last.label is None else last.label == NO_ANSWER


def _subset(subset: SubsetTally) -> dict[str, Any]:
    return {
        "instances": sum(subset.instances.values()),
        "removed": subset.instances["remove"],
        "changed": subset.changed,
        "candidates": sum(subset.candidates.values()),
        **_actions(subset.candidates),
        "undecided": subset.undecided,
        "suspect_positives": subset.suspect_positives,
    }


def _actions(candidates: Counter[str]) -> dict[str, int]:
    return {action: candidates[action] for action in ("relabel", "drop", "keep")}
