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
from relabel.text import public_name


def audited(opened: Opened, ledger: Ledger, report: dict[str, Any]) -> dict[str, Any]:
    """The report of a run whose tables are written, with its audit added."""
    facts = facts_of(opened.config, opened.cascade)
    people, fault = people_of(opened)
    with Tables(opened.folder, flags_of(facts), people) as tables:
        report |= audit(tables, facts, report) | {"people_fault": fault}
        chosen = choose(tables)
    report["cost"] = costs(facts, report, Prices(opened.config.rates))
    report["damage"] = damage(report)
    report["checks"] = checks(facts, report)
    outcomes = opened.outcomes_at({one.line for one in chosen}, ledger)
    report["examples"] = described(chosen, outcomes, ledger.get, people)
    return report


def write_pages(opened: Opened, report: Mapping[str, Any], title: str = "") -> None:
    """Write the card and the report into the run's folder; its name is the title, unless another is given."""
    told = _public(report) if opened.public else report
    described = card(told, opened.config, opened.cleaned)
    write_report(opened.folder, told, title or opened.folder.name, described)


def _public(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report without what only this machine knows: where the source and models lie, and which servers answered."""
    here = Path(report["source"]["path"])
    cleared: dict[str, Any] = _cleared(dict(report))
    return cleared | {
        "source": {**report["source"], "path": here.name if here.exists() else str(here)},
        "mixed": {tier: found for tier, found in cleared["mixed"].items() if found},
    }


def _cleared(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _cleared(one, name) for name, one in value.items() if name != "endpoint"}
    if isinstance(value, list):
        return [_cleared(one, key) for one in value]
    return public_name(value) if key in ("model", "served_model") and isinstance(value, str) else value
