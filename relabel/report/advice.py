"""What a run cost, whether it can be trusted, and which subsets are worth a second thought."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from relabel.costs import Prices
from relabel.records import Usage
from relabel.report.facts import LISTWISE, TierFacts

_FEW, _FEW_QUERIES = 30, 10
"""Instances, or candidates that people have labelled, below which a share says little; and their queries."""

_RIGHT = 0.8
"""The least share of relabelled candidates that people must call relevant: the others are noise that was not there."""

_SOUND, _DAMAGED, _TOUCHED = 0.01, 0.1, 0.5
"""A subset is sound if its false-negative rate is surely below the first, damaged if it is surely above the second, or
if surely more than a third share, of its instances, are touched."""

_COVERED, _REFUSED, _ALIKE = 0.95, 0.01, 0.4
"""From which share of decided candidates on, up to which share of records in quarantine, and from which kappa on a run
is called sound. 0.4 is where Landis and Koch (1977) begin to speak of moderate agreement."""


def costs(facts: Sequence[TierFacts], report: Mapping[str, Any], prices: Prices) -> dict[str, Any]:
    """What the replies behind the verdicts come to by the prices of the config, whoever paid for them: by tier, for a
    thousand candidates, and if the last judge that asks a model had seen all that were judged.
    """
    tiers = [_tier_cost(one, report["tiers"].get(one.name, {}), prices) for one in facts if one.asks_a_model]
    judged = report["candidates"]["in"] - report["rules"].get("unjudged", 0)
    known = [one["usd"] for one in tiers]
    total = None if None in known else sum(known)
    return {
        "tiers": tiers,
        "usd": _rounded(total),
        "usd_per_1000": _rounded(1000 * total / judged) if judged and total is not None else None,
        "strong_only": _strong_only(tiers, judged, total) if _comparable(facts) else None,
    }


def _tier_cost(one: TierFacts, tier: Mapping[str, Any], prices: Prices) -> dict[str, Any]:
    tokens = {name: tier.get(name, 0) for name in ("calls", "prompt_tokens", "cached_tokens", "completion_tokens")}
    usage = Usage(tokens["prompt_tokens"], tokens["cached_tokens"], tokens["completion_tokens"])
    uncounted = tokens["calls"] and not tokens["prompt_tokens"]
    usd = None if uncounted else prices.cost(one.model or "", usage)
    candidates = tier.get("candidates", 0)
    return {
        "tier": one.name,
        "model": one.model,
        "candidates": candidates,
        **tokens,
        "usd": _rounded(usd),
        "usd_per_1000": _rounded(1000 * usd / candidates) if candidates and usd is not None else None,
    }


def _comparable(facts: Sequence[TierFacts]) -> bool:
    """Whether what the last judge took for a candidate is what it would take for any: not where it sees several in a
    prompt, and was shown some of each list only.
    """
    last = next((place for place, one in reversed(list(enumerate(facts))) if one.asks_a_model), 0)
    return facts[last].asks != LISTWISE or not any(one.selects for one in facts[:last])


def _strong_only(tiers: Sequence[Mapping[str, Any]], judged: int, usd: float | None) -> dict[str, Any] | None:
    """None where the last judge saw nothing, saw all, or has no price."""
    last = tiers[-1] if tiers else None
    if last is None or last["usd_per_1000"] is None or not 0 < last["candidates"] < judged:
        return None
    alone = last["usd_per_1000"] * judged / 1000
    return {
        "tier": last["tier"],
        "usd": _rounded(alone),
        "calls": round(last["calls"] * judged / last["candidates"]),
        "ratio": round(alone / usd, 2) if usd else None,
    }


def damage(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The subsets, the most damaged first, each with what to do about it."""
    found = []
    changes, suspects = report["changes"], report["suspect_positives"]
    people = (report["human"] or {}).get("subsets", {})
    for name, subset in changes["subsets"].items():
        row = {
            "subset": name,
            "instances": subset["instances"],
            "touched_share": subset["touched_share"],
            "touched_95": subset["touched_95"],
            "candidates": subset["candidates"],
            "decided": subset["false_negatives_among"],
            "false_negatives": subset["false_negatives"],
            "false_negatives_share": subset["false_negatives_share"],
            "false_negatives_95": subset["false_negatives_95"],
            "suspect_share": suspects.get(name, {}).get("suspect_share"),
            "people": people.get(name),
        }
        found.append(row | {"advice": _advice(row)})
    return sorted(found, key=lambda row: (-(row["false_negatives_share"] or 0), row["subset"]))


def _advice(row: Mapping[str, Any]) -> str:
    low, high = row["false_negatives_95"]
    people = row["people"]
    if not row["decided"]:
        return "nothing was decided" if row["candidates"] else "nothing was judged"
    if people is not None and people["candidates"] >= _FEW and people["relevant_95"][1] < _RIGHT:
        return "people reject its new positives: do not relabel it"
    if row["instances"] < _FEW:
        return "too few instances to say"
    if high < _SOUND:
        return "sound"
    if low > _DAMAGED or row["touched_95"][0] > _TOUCHED:
        return "damaged: train once without it"
    return "use it cleaned"


def checks(facts: Sequence[TierFacts], report: Mapping[str, Any]) -> list[dict[str, str]]:
    """Whether the run can be trusted, point by point: `status` is ok, look (at it), or unknown."""
    return [
        {"check": name, "status": status, "says": says}
        for name, status, says in (
            _complete(report),
            _decided(report),
            _usable(report),
            *_judges(facts, report),
            _people(report),
            *_calibrations(report),
            _circumstances(report),
        )
    ]


_Check = tuple[str, str, str]


def _complete(report: Mapping[str, Any]) -> _Check:
    waiting = report["candidates"]["unanswered"] + report["positives"]["unanswered"]
    says = f"{waiting:,} candidates or positives still wait for a reply" if waiting else "every question has its reply"
    return "all answered", "look" if waiting else "ok", says


def _decided(report: Mapping[str, Any]) -> _Check:
    whole = report["changes"]["all"]
    asked, decided = whole["candidates"], whole["false_negatives_among"]
    if not asked:
        return "candidates decided", "look", "no candidate was judged"
    reasons: dict[str, int] = {}
    for tier in report["tiers"].values():
        for reason, count in tier["abstained"].items():
            reasons[reason] = reasons.get(reason, 0) + count
    worst = max(reasons, key=lambda reason: reasons[reason], default="")
    says = f"{decided:,} of {asked:,} judged candidates have a verdict that decides"
    if worst:
        says += f"; judges abstained mostly for: {worst} ({reasons[worst]:,})"
    return "candidates decided", "ok" if decided >= _COVERED * asked else "look", says


def _usable(report: Mapping[str, Any]) -> _Check:
    instances = report["instances"]
    refused = instances["quarantined"]
    status = "ok" if refused <= _REFUSED * instances["in"] else "look"
    return "records usable", status, f"{refused:,} of {instances['in']:,} records are quarantined"


def _judges(facts: Sequence[TierFacts], report: Mapping[str, Any]) -> Iterator[_Check]:
    """Judges that ask a model, two by two. Where the labels of a tier between have chosen what the second sees, kappa
    says little: what it upheld does.
    """
    places = {one.name: place for place, one in enumerate(facts) if one.asks_a_model}
    for pair in report["agreement"]:
        if not places.keys() >= set(pair["tiers"]):
            continue
        both = " and ".join(pair["tiers"])
        first, second = (places[tier] for tier in pair["tiers"])
        if pair["kappa"] is not None and not any(one.selects for one in facts[first:second]):
            says = f"{both}: {_kappa(pair)} on {pair['candidates']:,} candidates"
            yield "judges agree", "ok" if pair["kappa"] >= _ALIKE else "look", says
        elif (upheld := pair["upheld"]) is not None:
            says = f"{both}: of {upheld['candidates']:,} candidates that the first flagged, the second upheld"
            yield "judges agree", "unknown", f"{says} {upheld['upheld']:,} ({upheld['upheld_share']:.0%})"


def _kappa(row: Mapping[str, Any]) -> str:
    if row["kappa"] is None:
        return "no kappa (all is one)"
    low, high = row["kappa_95"] or (-1, 1)
    return f"Cohen's kappa {row['kappa']:.2f} [{low:.2f}, {high:.2f}]"


def _people(report: Mapping[str, Any]) -> _Check:
    name, human = "people agree", report["human"]
    if report["people_fault"]:
        return name, "look", f"what they say cannot be read: {report['people_fault']}"
    if human is None:
        return name, "unknown", "nobody has looked: give labels with --labels FILE --relevant GRADE"
    if not human["matched"]:
        names = human["example"]
        says = f"none of {human['labels']:,} labels is of a candidate of this run: they name {names['label']!r}, "
        return name, "look", f"{says}where candidates are named {names['candidate']!r} (see decisions.parquet)"
    row, strays = human["decisions"], human["labels"] - human["matched"]
    note = f"; {strays:,} of {human['labels']:,} labels are of no candidate of this run" if strays else ""
    if row["candidates"] < _FEW or human["queries"] < _FEW_QUERIES:
        where = f"{row['candidates']:,} candidates of {human['queries']:,} queries"
        return name, "unknown", f"only {where} have labels: too few to say{note}"
    says = f"{_kappa(row)} with people on {row['candidates']:,} candidates"
    moved = human["actions"].get("relabel")
    right = True
    if moved is not None:
        low, high = moved["relevant_95"]
        says += f"; they call {moved['relevant_share']:.0%} [{low:.0%}, {high:.0%}] of the relabelled relevant"
        right = moved["relevant_share"] >= _RIGHT
    return name, "ok" if (row["kappa"] or 0) >= _ALIKE and right and not strays else "look", says + note


def _calibrations(report: Mapping[str, Any]) -> Iterator[_Check]:
    for one in report["calibrations"]:
        strange = [*one["unfitted_subsets"], *one["unfitted_judges"]]
        says = f"{one['tier']} was used on what it was fitted on"
        if strange:
            says = f"{one['tier']} was not fitted on {', '.join(name or '(none)' for name in strange)}"
        yield "calibration fits", "look" if strange else "ok", says


def _circumstances(report: Mapping[str, Any]) -> _Check:
    mixed = report["mixed"]
    says = f"the replies of {', '.join(mixed)} come from more than one model, server or dialect"
    return "replies of one kind", "look" if mixed else "ok", says if mixed else "each tier was answered in one way only"


def _rounded(usd: float | None) -> float | None:
    return None if usd is None else round(usd, 6)
