"""Labelled pairs from a pilot: a run in which the strong judge has seen what the cheap ones have seen."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from relabel.calibrating.pairs import Pair, Pairs, count_unjudged
from relabel.costs import Prices
from relabel.errors import ConfigError, Unfinished
from relabel.folder import Opened, judges_of, ledger_of, reopen
from relabel.labels import Name
from relabel.ledger import Ledger
from relabel.records import UNANSWERED, Decision, Outcome
from relabel.signals import features
from relabel.text import pasteable


def from_run(folder: Path, labels: Mapping[Name, bool], strong: str, found: Collection[str]) -> Pairs:
    """The labelled candidates of a run. `found` are the strong tier's labels that mean relevant; without them those
    that the policy does not keep. Raises RelabelError.
    """
    opened = reopen(folder)
    gathering = _Gathering(opened, labels, strong, found)
    with ledger_of(opened.folder, opened.config) as ledger:
        for record in opened.outcomes(ledger):
            if isinstance(record, Outcome):
                gathering.add(record)
        return gathering.result(ledger)


class _Gathering:
    """Picks the labelled candidates from a run's outcomes."""

    def __init__(self, opened: Opened, labels: Mapping[Name, bool], strong: str, found: Collection[str]) -> None:
        self._opened = opened
        self._tiers = opened.cascade.tiers
        names = [tier.name for tier in self._tiers]
        if strong not in names[1:]:
            known = ", ".join(names[1:]) or "none: it has one tier"
            raise ConfigError(f"--strong {strong}: {opened.folder} has no such tier after its first; expected {known}")
        self._place = names.index(strong)
        self._labels = labels
        self._judge_labels = {tier.name: tier.judge.labels for tier in self._tiers}
        policy = opened.config.policy
        acted_on = (*policy.relabel, *policy.drop, *policy.remove, *policy.drop_any)
        self._found = frozenset(found or acted_on)
        gives = self._judge_labels[strong]
        unknown = ", ".join(sorted(set(found) - set(gives)))
        if unknown or self._found.isdisjoint(gives):
            which = unknown or "none in the policy"
            raise ConfigError(f"--found: {which}; say which labels of {strong} mean relevant: {', '.join(gives)}")
        self._pairs: dict[Name, Pair] = {}
        self._decided: set[Name] = set()
        self._unreached: set[Name] = set()
        self._judged = 0

    def add(self, outcome: Outcome) -> None:
        """Take what is labelled of an instance's candidates."""
        instance = outcome.instance
        for candidate, decision in zip(instance.negatives, outcome.decisions, strict=True):
            self._judged += any(verdict.tier == self._strong for verdict in decision.verdicts)
            name = (instance.query_id, candidate.docid)
            if name in self._labels and name not in self._pairs:
                self._add(name, decision, instance.subset)

    @property
    def _strong(self) -> str:
        return self._tiers[self._place].name

    def _add(self, name: Name, decision: Decision, subset: str) -> None:
        if any(verdict.abstained == UNANSWERED for verdict in decision.verdicts):
            again = pasteable("relabel", "run", self._opened.folder)
            raise Unfinished(f"{self._opened.folder}: labelled pairs wait for replies; `{again}` goes on")
        said = {verdict.tier: verdict for verdict in decision.verdicts}
        strong = said.get(self._strong)
        if strong is None:
            reached = self._tiers[self._place - 1].name in said
            (self._unreached if reached else self._decided).add(name)
            return
        before = tuple(said[tier.name] for tier in self._tiers[: self._place] if tier.name in said)
        self._pairs[name] = Pair(
            *name,
            features(before, self._judge_labels),
            features((strong,), self._judge_labels),
            None if strong.label is None else strong.label in self._found,
            self._labels[name],
            subset,
        )

    def result(self, ledger: Ledger) -> Pairs:
        """All pairs. Raises ConfigError if the strong tier has seen a selection of them only."""
        if self._unreached:
            raise ConfigError(self._selected())
        result = Pairs(
            list(self._pairs.values()),
            self._strong,
            [f"{tier.name}.{name}" for tier in self._tiers[: self._place] for name in tier.judge.features],
            [f"{self._strong}.{name}" for name in self._tiers[self._place].judge.features],
            {
                one["tier"] or "": " ".join(filter(None, (one["judge"], one["model"])))
                for one in judges_of(self._opened)
            },
            usd=self._price(ledger),
        )
        if self._decided:
            before = self._tiers[self._place - 1].name
            result.notes.append(f"{len(self._decided):,} labelled pairs were decided before {before}: left out")
        if left := count_unjudged(self._labels, self._pairs.values()) - len(self._decided):
            result.notes.append(f"{left:,} of {len(self._labels):,} labelled pairs are no candidates of this run")
        return result

    def _price(self, ledger: Ledger) -> float | None:
        """What the strong tier costs for a candidate, in US dollars."""
        prices = Prices(self._opened.config.rates)
        spent = [one for one in ledger.spent() or ledger.spent(read=True) if one.tier == self._strong]
        costs = [prices.cost(one.model, one.usage) for one in spent]
        return None if not self._judged or None in costs else sum(cost or 0.0 for cost in costs) / self._judged

    def _selected(self) -> str:
        before = self._tiers[self._place - 1]
        every = ", ".join((*before.judge.labels, "abstained"))
        setting = f"cascade.{before.name}.escalate.labels=[{every}]"
        again = pasteable("relabel", "run", self._opened.folder, "--set", setting)
        return (
            f"{self._opened.folder}: {len(self._unreached):,} of {len(self._labels):,} labelled pairs were never shown "
            f"to {self._strong}, as {before.name} did not pass them on; the others alone are no fair sample. Have them "
            f"judged, too: `{again}`"
        )
