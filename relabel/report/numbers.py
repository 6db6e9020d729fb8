"""What a run did, in numbers that add up: the counts of its tally, its calls and its spending."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from relabel.calibration import UNSURE
from relabel.cascade import Cascade
from relabel.config import Config
from relabel.costs import Prices
from relabel.ledger import Ledger
from relabel.meter import Meter
from relabel.tally import Tally, TierTally


def build_report(config: Config, tally: Tally, meter: Meter, ledger: Ledger) -> dict[str, Any]:
    """The numbers of a run. A model without a price has no cost (null); a folder without replies of its own shows what
    those that it reads have cost.
    """
    prices = Prices(config.rates)
    spent: list[dict[str, Any]] = [
        {
            "tier": one.tier,
            "model": one.model,
            "replies": one.replies,
            "refused": one.refused,
            "prompt_tokens": one.usage.prompt,
            "cached_tokens": one.usage.cached,
            "completion_tokens": one.usage.completion,
            "usd": _rounded(prices.cost(one.model, one.usage)),
        }
        for one in ledger.spent() or ledger.spent(read=True)
    ]
    costs: list[float | None] = [one["usd"] for one in spent]
    return {
        **counts(tally, meter),
        "spent": spent,
        "usd": None if None in costs else _rounded(sum(cost or 0.0 for cost in costs)),
        "mixed": mixed(ledger),
        "answered_by": ledger.contexts(),
    }


def calibrations(cascade: Cascade, judges: Sequence[Mapping[str, str | None]], tally: Tally) -> list[dict[str, Any]]:
    """The calibrations that a run used, each by the first tier that it stands in: what was measured of it, the share
    that it escalated here, and where it was used on what it was not fitted on: subsets (with their candidates) and
    judges (of other prompts or models).
    """
    found = []
    now = {one["tier"]: " ".join(filter(None, (one["judge"], one["model"]))) for one in judges}
    first_users = {judge.sha256: tier for tier, judge in reversed(cascade.calibrated.items())}
    for tier in reversed(first_users.values()):
        judge = cascade.calibrated[tier]
        fitted = judge.calibration
        said = tally.tiers.get(tier, TierTally())
        weighed = {name: subset.weighed[tier] for name, subset in tally.subsets.items()}
        found.append(
            {
                "tier": tier,
                "part": judge.part,
                "sha256": judge.sha256,
                "escalated_share": round(said.labels[UNSURE] / said.candidates, 4) if said.candidates else None,
                "unfitted_subsets": {
                    name: n for name, n in sorted(weighed.items()) if n and name not in fitted.subsets
                },
                "unfitted_judges": {
                    name: {"fitted": before, "now": now[name]}
                    for name, before in sorted(fitted.judges.items())
                    if now.get(name, before) != before
                },
                **fitted.model_dump(
                    mode="json", include={"strong", "relevant", "target", "band", "fitted_on", "measured"}
                ),
            }
        )
    return found


def counts(tally: Tally, meter: Meter) -> dict[str, Any]:
    """What was decided, and what each tier said and took; all of it derived from source, config and replies."""
    found = tally.as_dict()
    for name, tier in found["tiers"].items():
        tier |= meter.as_dict(name)
    return found


def mixed(ledger: Ledger) -> dict[str, dict[str, list[str]]]:
    """For each tier, of what there is more than one among its replies: endpoint, served model, fingerprint, dialect."""
    seen: dict[str, dict[str, set[str]]] = {}
    for context in ledger.contexts():
        tier = seen.setdefault(context["tier"], {})
        spoken = [part for part in (context["dialect"] or "").split() if not part.startswith("~")]
        tier.setdefault("dialect", set()).add(" ".join(spoken) or "plain")
        for name in ("endpoint", "served_model", "fingerprint", "engine"):
            if context.get(name):
                tier.setdefault(name, set()).add(context[name])
    several = {
        tier: {name: sorted(values) for name, values in found.items() if len(values) > 1}
        for tier, found in sorted(seen.items())
    }
    return {tier: found for tier, found in several.items() if found}


def _rounded(usd: float | None) -> float | None:
    return None if usd is None else round(usd, 6)
