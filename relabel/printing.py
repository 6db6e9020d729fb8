"""What the command line says of runs, their reports and estimates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from relabel.calibration import Calibration, Point
from relabel.config import Price
from relabel.costs import Prices
from relabel.differences import ACTIONS
from relabel.estimate import TierEstimate
from relabel.ledger import Ledger, holder
from relabel.report.pages import usd
from relabel.runs import Summary, safe
from relabel.text import pasteable, printable

_SHOWN = 5


def print_summary(summary: Summary) -> None:
    """What a call of `run` came to."""
    if summary.report is not None:
        print_counts(summary.report)
    tiers = summary.progress.tiers.values()
    paid = [tier for tier in tiers if not tier.free]
    sent, known = (sum(getattr(tier, name) for tier in paid) for name in ("sent", "from_ledger"))
    measured = sum(tier.sent for tier in tiers if tier.free)
    tail = "unchanged, nothing to do" if summary.unchanged else f"{sent:,} sent, {known:,} from the ledger"
    if measured:
        tail += f" (and {measured:,} instances measured by screens)"
    print(f"requests    {tail}")
    print(printable(f"run         {summary.folder}"))


def print_counts(report: dict[str, Any]) -> None:
    """The counts of a report, which add up."""
    instances, candidates = report["instances"], report["candidates"]
    print(
        f"instances   {instances['in']:,} in = {instances['cleaned']:,} cleaned + {instances['removed']:,} removed + "
        f"{instances['quarantined']:,} quarantined ({instances['changed'] - instances['removed']:,} changed)"
    )
    print(
        f"candidates  {candidates['in']:,} in = {candidates['relabel']:,} relabel + {candidates['drop']:,} drop + "
        f"{candidates['keep']:,} keep ({_asides(report)})"
    )
    if (positives := report["positives"])["judged"]:
        print(
            f"positives   {positives['judged']:,} judged = {positives['sound']:,} sound + {positives['suspect']:,} "
            f"suspect (no answer found) + {positives['abstained']:,} abstained"
        )
    for rule, count in report["removed_by"].items():
        print(f"removed     {count:,} by {rule}")
    for reason, count in list(report["quarantined_for"].items())[:_SHOWN]:
        print(f"quarantine  {count:,}: {printable(reason)}")
    for name, tier in report["tiers"].items():
        said = [f"{count:,} {'grade ' * label.isdigit()}{label}" for label, count in tier["labels"].items()]
        said += [f"{count:,} abstained: {reason}" for reason, count in tier["abstained"].items()]
        said += [f"{tier['unanswered']:,} unanswered"] if tier["unanswered"] else []
        print(f"tier        {name}: {tier['candidates']:,} candidates: {', '.join(said)}")
    if report["spent"]:
        tokens = [sum(one[name] for one in report["spent"]) for name in ("prompt_tokens", "completion_tokens")]
        cost = f"${report['usd']:.4f}" if report["usd"] is not None else "unpriced"
        print(f"spent       {tokens[0]:,} tokens in, {tokens[1]:,} tokens out, {cost}")
    for tier, found in report["mixed"].items():
        for name, values in found.items():
            shown = printable(", ".join(values))
            print(f"mixed       {tier}: replies with {len(values)} different values of {name}: {shown}")


def print_checks(report: Mapping[str, Any]) -> None:
    """Whether a run can be trusted, and where it is worth a look."""
    for one in report["checks"]:
        print(printable(f"{one['status']:<8}    {one['check']}: {one['says']}"))


def print_difference(diff: Mapping[str, Any]) -> None:
    """What differs between two runs, and the first candidates that they decide differently."""
    both, agreed = diff["candidates"], diff["agreement"]
    for name in "ab":
        print(printable(f"{name.upper()}           {diff['runs'][name]['name']}"))
    for one in diff["settings"]:
        sides = f"{one['a'] or '-'} in A, {one['b'] or '-'} in B"
        print(printable(" ".join(f"differs     {one['setting']}: {sides}".split("\n"))))
    print(f"candidates  {both['both']:,} in both, {both['a_only']:,} in A only, {both['b_only']:,} in B only")
    if both["both"]:
        low, high = diff["all"]["changed_95"]
        kappa = "none" if agreed["kappa"] is None else f"{agreed['kappa']:.3f}"
        share = f"{diff['all']['changed_share']:.1%} [{low:.1%}, {high:.1%}] over queries"
        print(f"otherwise   {diff['all']['changed']:,} decided otherwise: {share}; Cohen's kappa {kappa}")
    for a, row in zip(ACTIONS, diff["moves"], strict=True):
        for b, count in zip(ACTIONS, row, strict=True):
            if a != b and count:
                print(f"            {count:,} from {a} to {b}")
    for what, words in (("found", "calling false negatives"), ("relabelled", "relabelling")):
        for name, apart in (diff["human"] or {}).get(what, {}).get("difference", {}).items():
            if apart["difference"] is None:
                continue
            a, b = (diff["human"][what][side][name] for side in "ab")
            between = _interval(apart["difference_95"]) if apart["difference_95"] else "of one query"
            apart_by = f"{apart['difference']:+.3f} {between}, p {apart['p']:.4f}"
            print(f"people      {words}: {name} {a:.3f} in A, {b:.3f} in B: {apart_by}")
    for name, words in (("usd", "in all"), ("usd_per_1000", "for 1,000 candidates")):
        cost = diff["cost"][name]
        print(f"cost        {words}: {usd(cost['a'])} in A, {usd(cost['b'])} in B: {usd(cost['difference'])}")
    for one in diff["examples"][:_SHOWN]:
        _print_changed(one)


def _print_changed(one: Mapping[str, Any]) -> None:
    """A candidate that two runs decide differently, in a few lines."""
    print(
        printable(f"\n{_short(one['query'])}\n  {one['a']['passage']['docid']}: {_short(one['a']['passage']['text'])}")
    )
    for name in "ab":
        side = one[name]
        evidence = next((said["evidence"] for said in reversed(side["verdicts"]) if said["evidence"]), None)
        quoted = f" “{_short(evidence)}”" if evidence else ""
        print(printable(f"  {name.upper()}: {side['action']}, {side['reason']}{quoted}"))


def _short(text: str, most: int = 100) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _asides(report: dict[str, Any]) -> str:
    """How many of the kept are undecided, and what else is kept for want of a judge."""
    asides = [f"{report['candidates']['undecided']:,} undecided"]
    if unjudged := report["rules"].get("unjudged"):
        asides.append(f"{unjudged:,} unjudged")
    if unanswered := report["candidates"]["unanswered"]:
        asides.append(f"PARTIAL: {unanswered:,} unanswered")
    return ", ".join(asides)


def print_unfinished(run: Path) -> None:
    """That a run is not complete, and who is writing it or how it goes on."""
    if writing := holder(run):
        print(f"not complete: {printable(writing)} is writing it")
    else:
        print(f"not complete: `{printable(pasteable('relabel', 'run', run))}` goes on")


def print_spent(prices: Mapping[str, Price], ledger: Ledger) -> None:
    """What a ledger holds, tier by tier, and what it cost."""
    for one in ledger.spent():
        cost = Prices(prices).cost(one.model, one.usage)
        shown = f"${cost:.4f}" if cost is not None else "unpriced"
        print(
            f"ledger      {one.tier} ({printable(one.model)}): {one.replies:,} replies, {one.refused:,} of them "
            f"refused, {one.usage.prompt:,} tokens in, {one.usage.completion:,} out, {shown}"
        )


def print_estimate(tiers: Sequence[TierEstimate]) -> None:
    """A table of the tiers, with the cost of all."""
    if not tiers:
        print("no tier asks a model: nothing to pay for")
        return
    header = ("tier", "model", "calls to send", "answered", "tokens in", "tokens out", "cost", "calls are")
    rows = [header]
    for one in tiers:
        cost = f"${one.usd:,.2f}" if one.usd is not None else "unpriced"
        numbers = (f"{n:,}" for n in (one.calls, one.answered, one.prompt_tokens, one.completion_tokens))
        rows.append((one.tier, printable(one.model), *numbers, cost, one.basis))  # type: ignore[arg-type]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    for row in rows:
        cells = [
            cell.ljust(width) if column in (0, 1, 7) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
    costs = [one.usd for one in tiers]
    if None not in costs:
        print(f"in all      ${sum(cost for cost in costs if cost):,.2f}")


def print_learnt(calibration: Calibration, config: Path | None, path: Path) -> None:
    """What `relabel calibrate` has learnt and written, and what to do with it."""
    print_calibration(calibration)
    print(printable(f"calibration {path}"))
    if config is not None:
        print(printable(f"config      {config}: {pasteable('relabel', 'run', config, '--set', 'input.path=…')}"))
        print(
            "            what doubt is sure to be a false negative is relabelled; its policy says so, and may say drop"
        )
    else:
        use = f"judge: {{calibration: {path}}}, escalate: {{labels: [unsure]}}"
        print(printable(f"            use it in a tier before {calibration.strong}: {use}"))


def print_calibration(calibration: Calibration) -> None:
    """What was fitted on, how good it is, and the frontier with the chosen point."""
    fitted, measured, strong = calibration.fitted_on, calibration.measured, printable(calibration.strong)
    print(f"fitted on   {fitted.pairs:,} labelled pairs of {fitted.queries:,} queries, {fitted.relevant:,} relevant")
    for note in fitted.notes:
        print(f"            {printable(note)}")
    weights = sorted(calibration.cheap.weights, key=lambda one: -abs(one.weight))
    weighed = ", ".join(f"{one.feature} {one.weight:+.2f}" for one in weights)
    print(printable(f"weighs      {weighed} (by standard deviation)"))
    print(
        f"measured    by cross-validation over queries: AUC {measured.auc:.3f}, Brier {measured.brier:.3f}, "
        f"calibration error {measured.calibration_error:.3f}"
    )
    print(f"strong only kappa {measured.strong_only.kappa:.3f} {_interval(measured.strong_only.kappa_95)}")
    print()
    print("strong calls  kappa  95 %            precision  recall  F1     their USD per 1,000")
    points = {point.share: point for point in (*measured.frontier[::2], measured.chosen)}
    for share in sorted(points):
        _print_point(points[share], share == measured.chosen.share)
    print()
    low, high = calibration.band
    alone = f"{strong} alone decides, and where it abstains the cheap judges"
    decides = f"{strong} and the rest together decide" if calibration.combined else alone
    print(f"band        P(false negative) from {low:.3f} to {high:.3f} goes to {strong}; there {decides}")
    wanted = calibration.target.get("share")
    if wanted is not None and abs(wanted - measured.chosen.share) > 0.05:
        print(f"            The cheap judges tell too few kinds apart for a share of {wanted:.0%}: this is the nearest")


def _print_point(point: Point, chosen: bool) -> None:
    usd = "" if point.usd is None else f"{point.usd:.2f}"
    print(
        f"{point.share:12.0%}  {point.kappa:.3f}  {_interval(point.kappa_95)}  {point.precision:9.3f}  "
        f"{point.recall:6.3f}  {point.f1:.3f}  {usd:>19}{'  <- chosen' if chosen else ''}".rstrip()
    )


def _interval(bounds: Sequence[float]) -> str:
    return f"[{bounds[0]: .3f}, {bounds[1]: .3f}]"


_HINTS = {
    "too_long": "The tier's `context` has no room for them beside the positives.",
    "length": "Replies were cut off: raise the tier's max_tokens, or set retry_max_tokens.",
    "empty_text": "They have no text.",
    "suspect_positive": "No answer was found in their positives: positives.parquet names these.",
    "no_majority": "The replies disagree: `votes` in the column `verdicts` of decisions.parquet counts them.",
}


def warnings(report: dict[str, Any]) -> Iterator[str]:
    """The tiers that understood hardly anything: then the set is not cleaned, whatever the exit code."""
    for name, tier in report["tiers"].items():
        abstained = sum(tier["abstained"].values())
        if abstained * 2 > tier["candidates"]:
            reason, count = max(tier["abstained"].items(), key=lambda item: item[1])
            hint = _HINTS.get(reason, "The column `found` of decisions.parquet shows what came back.")
            yield (
                f"Warning: tier {name} abstained on {abstained:,} of {tier['candidates']:,} candidates, mostly: "
                f"{reason} ({count:,}). {hint}"
            )
    for one in report["calibrations"]:
        if subsets := one["unfitted_subsets"]:
            names = ", ".join(f"{name or '(none)'} ({count:,})" for name, count in subsets.items())
            yield f"Warning: tier {one['tier']}: its calibration was not fitted on the subsets {names}"
        for tier, judges in one["unfitted_judges"].items():
            yield (
                f"Warning: tier {one['tier']}: its calibration was fitted on {tier} by {judges['fitted']}; now it is "
                f"{judges['now']}"
            )


def why(summary: Summary) -> str:
    """Why a run has ended before its time, what can be done, and what is safe."""
    progress, words = summary.progress, [f"{summary.stopped}."]
    reasons = sorted(progress.unanswered.items(), key=lambda item: -item[1])
    words += [f"{count:,} requests got no reply: {reason}." for reason, count in reasons[:3]]
    if "--retry" in summary.goes_on_with:
        export = pasteable("relabel", "export", summary.folder, "--partial")
        words.append(f"`{export}` shows what came back, in the column `found` of decisions.parquet.")
    return " ".join([*words, safe(summary.folder, progress)])
