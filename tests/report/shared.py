"""Runs in small: outcomes, written as the tables that a report is made from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from relabel.records import Decision, Instance, Outcome, Passage, Verdict
from relabel.report.facts import LISTWISE, TierFacts
from relabel.tables import DECISIONS, DecisionsWriter
from relabel.tally import Tally

LABELS = ("irrelevant", "worse", "better")
FOUND = frozenset({"worse", "better"})
FACTS = [TierFacts(name, "rlhn@1", name, LISTWISE, LABELS, FOUND) for name in ("cheap", "strong")]
Said = tuple[str | None, ...]
"""What the tiers said of a candidate, first to last; None is an abstention."""


def decision(said: Said) -> Decision:
    """As a policy that relabels both labels has it."""
    tiers = zip(FACTS, said, strict=False)
    verdicts = tuple(
        Verdict(one.name, one.judge, one.model, label, None if label else "length") for one, label in tiers
    )
    if not said:
        return Decision("keep", "unjudged", "")
    if said[-1] is None:
        return Decision("keep", "undecided", "", verdicts)
    found = said[-1] in FOUND
    return Decision("relabel" if found else "keep", "false-negative" if found else "no-objection", "", verdicts)


def outcome(number: int, said: Sequence[Said], subset: str = "nq", query_id: str = "") -> Outcome:
    """An instance whose candidates the tiers said this of."""
    negatives = tuple(Passage(f"d{number}-{n}", "", "a text", float(n)) for n, _ in enumerate(said, 1))
    name = query_id or f"q{number}"
    one = Instance(number, name, f"query {number}?", (Passage("p", "", "yes"),), negatives, subset)
    return Outcome(one, "keep", "keep", tuple(decision(each) for each in said))


def written(folder: Path, outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """Write decisions.parquet, and return the counts that a report begins with."""
    folder.mkdir(parents=True, exist_ok=True)
    writer, tally = DecisionsWriter(folder / DECISIONS), Tally()
    for one in outcomes:
        writer.write(one)
        tally.add(one)
    writer.close()
    return tally.as_dict()
