"""The report of a run: its counts, the audit of its tables, and examples with their texts and replies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from relabel.costs import Prices
from relabel.folder import Opened, people_of
from relabel.ledger import Ledger
from relabel.report import write_report
from relabel.report.advice import checks, costs, damage
from relabel.report.audit import audit
from relabel.report.card import card
from relabel.report.examples import choose, described
from relabel.report.facts import facts_of, flags_of
from relabel.report.queries import Tables


def audited(opened: Opened, ledger: Ledger, report: dict[str, Any]) -> dict[str, Any]:
    """The report of a run whose tables are written, with its audit added."""
    facts = facts_of(opened.config, opened.cascade)
    people = people_of(opened)
    with Tables(opened.folder, flags_of(facts), people) as tables:
        report |= audit(tables, facts, report)
        chosen = choose(tables)
    report["cost"] = costs(facts, report, Prices(opened.config.rates))
    report["damage"] = damage(report)
    report["checks"] = checks(facts, report)
    outcomes = opened.outcomes_at({one.line for one in chosen}, ledger)
    report["examples"] = described(chosen, outcomes, ledger.get, people)
    return report


def write_pages(opened: Opened, report: Mapping[str, Any], title: str = "") -> None:
    """Write the card and the report into the run's folder; its name is the title, unless another is given."""
    described = card(report, opened.config, opened.cleaned)
    write_report(opened.folder, report, title or opened.folder.name, described)


def public(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report without what only this machine knows: where the source lies, and which servers answered."""
    here = Path(report["source"]["path"])
    circumstances = [{k: v for k, v in one.items() if k != "endpoint"} for one in report["answered_by"]]
    mixed = {
        tier: {name: values for name, values in found.items() if name != "endpoint"}
        for tier, found in report["mixed"].items()
    }
    return {
        **report,
        "source": {**report["source"], "path": here.name if here.exists() else str(here)},
        "answered_by": circumstances,
        "mixed": {tier: found for tier, found in mixed.items() if found},
    }
