"""The `relabel` command: parses arguments, calls, prints. Results go to stdout, all else to stderr.

Exit codes: 0 everything is answered, abstained, refused or quarantined; 1 work was left unsent or unanswered, or
`verify` found a difference; 2 bad usage, config or input, nothing usable.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relabel import __version__

if TYPE_CHECKING:
    from rich.console import Console

    from relabel.estimate import TierEstimate
    from relabel.folder import Opened
    from relabel.ledger import Ledger
    from relabel.runs import Summary

app = typer.Typer(
    help="Find the false negatives among mined hard negatives, and write the cleaned training set back.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_SHOWN = 5
_INTERRUPTED = 130
"""How typer ends on Ctrl-C."""

ConfigPath = Annotated[
    str,
    typer.Argument(
        metavar="CONFIG",
        help="A YAML file, a preset's name (quickstart, rlhn, arhn, answer-cascade), or the folder of a run.",
    ),
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, such as outputs/rlhn.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY.PATH=VALUE", help="Change a setting; may be repeated.")
]
Limit = Annotated[int | None, typer.Option(help="Take the first N records of the input only.", metavar="N")]
Output = Annotated[Path | None, typer.Option(help="The run folder, in place of output.dir.", metavar="DIR")]


def main() -> None:
    """Run the command, with every error of ours as one message and no traceback."""
    from relabel.errors import RelabelError, RunStopped, Unfinished
    from relabel.text import printable

    gc.freeze()  # what is imported by now lives as long as the process: no use in looking through it again
    gc.set_threshold(50_000, 20, 20)
    try:
        app()
    except SystemExit as end:
        if end.code != _INTERRUPTED:
            raise
        print("relabel: interrupted. What was stored before is safe; running again goes on.", file=sys.stderr)
        sys.exit(1)
    except (Unfinished, RunStopped) as fault:
        print(f"relabel: {printable(str(fault))}", file=sys.stderr)
        sys.exit(1)
    except RelabelError as fault:
        print(f"relabel: {printable(str(fault))}", file=sys.stderr)
        sys.exit(2)
    except OSError as fault:
        if isinstance(fault, BrokenPipeError):
            sys.stderr.close()
            sys.exit(1)
        named = f"{fault.filename}: " if fault.filename else ""
        print(f"relabel: {printable(named + (fault.strerror or str(fault)))}", file=sys.stderr)
        sys.exit(2)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
def run(
    config: ConfigPath,
    set_: Overrides = None,
    limit: Limit = None,
    output: Output = None,
    retry: Annotated[
        str | None,
        typer.Option(metavar="WHAT", help="Ask once more for what was 'abstained' or 'refused', or both with a comma."),
    ] = None,
) -> None:
    """Clean a training set. Running again goes on where it stopped and sends nothing twice."""
    from relabel.errors import RunStopped
    from relabel.loading import load_config
    from relabel.progress import Screen
    from relabel.runs import run as start

    console = _stderr()
    loaded = load_config(config, set_ or [])
    try:
        with Screen(console, bool(loaded.prices)) as screen:
            summary = start(
                loaded,
                limit=limit,
                output=output,
                retry=_retry(retry),
                watch=screen,
                say=lambda message: _tell(console, message),
            )
    except RunStopped as fault:
        _tell(console, f"Stopped: {str(fault).removesuffix('.')}: {_command()}")
        raise typer.Exit(1) from None
    _print_summary(summary)
    if summary.report is not None:
        _warn(console, summary.report)
    if summary.stopped:
        _tell(console, f"Stopped: {_why(summary).removesuffix('.')}: {_command(summary.goes_on_with)}")
        raise typer.Exit(1)


@app.command()
def estimate(config: ConfigPath, set_: Overrides = None, limit: Limit = None, output: Output = None) -> None:
    """Say what a run will take: calls, tokens and cost per tier. Sends nothing."""
    from relabel.estimate import estimate as count
    from relabel.folder import open_run, with_options
    from relabel.ledger import Ledger, segments
    from relabel.loading import load_config

    opened = open_run(with_options(load_config(config, set_ or []), limit, output))
    if segments(opened.folder) or opened.config.ledger.read:
        with Ledger(opened.folder, opened.config.ledger.read) as ledger:
            tiers = count(opened, ledger)
    else:
        tiers = count(opened, None)
    _print_estimate(tiers)


@app.command()
def export(
    run: RunFolder,
    policy: Annotated[
        str | None, typer.Option(metavar="POLICY", help="A policy's name, a YAML file, or YAML: '{relabel: [better]}'.")
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            metavar="FORMAT",
            help="tevatron, flagembedding, or sentence-transformers:triplet, :n-tuple, :labeled-pair, :labeled-list.",
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="A file for the cleaned set alone, or a folder/ for all that is derived."),
    ] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Export even if replies are missing.")] = False,
) -> None:
    """Derive the cleaned set again from a run's ledger, under another policy or in another format. Sends nothing."""
    from relabel.runs import export_run

    written, report = export_run(run, policy=policy, format=format, to=to, partial=partial)
    _print_counts(report)
    print(f"cleaned     {written}")


@app.command()
def report(run: RunFolder) -> None:
    """Write report.html and report.json again, with all else that is derived, and print the counts."""
    from relabel.runs import export_run

    _, found = export_run(run)
    _print_counts(found)
    print(f"report      {run / 'report.html'}")


@app.command()
def verify(
    run: RunFolder,
    salvage: Annotated[
        bool, typer.Option("--salvage", help="First put a sound file, with all that can be read, for each damaged one.")
    ] = False,
) -> None:
    """Derive every key and every decision anew, and say what differs from what the run's folder holds."""
    from relabel.folder import reopen
    from relabel.salvage import salvage as put_right
    from relabel.text import printable
    from relabel.verify import verify as check

    opened = reopen(run)
    for sentence in put_right(opened.folder) if salvage else ():
        _tell(_stderr(), sentence)
    with _ledger_of(opened) as ledger:
        findings = 0
        for finding in check(opened, ledger):
            findings += 1
            print(printable(finding))
    if findings:
        raise typer.Exit(1)
    print(f"{run}: every reply, key, decision and byte is as it must be")


@app.command()
def cancel(run: RunFolder) -> None:
    """Cancel a run's batches that are under way. What they have answered is paid, and the next run takes it in."""
    from relabel.runs import cancel_run
    from relabel.text import pasteable, printable

    found = cancel_run(run, say=lambda message: _tell(_stderr(), message))
    for batch in found:
        print(printable(f"cancelled   {batch}"))
    goes_on = pasteable("relabel", "run", run)
    print(f"`{printable(goes_on)}` takes in what was answered" if found else "no batch is under way")


@app.command()
def status(run: RunFolder) -> None:
    """Say what a run's ledger holds, what it cost, and whether the run is complete."""
    from relabel.clients.spool import under_way
    from relabel.folder import ledger_of, recorded_config
    from relabel.report import read_report

    config, _ = recorded_config(run)
    with ledger_of(run, config) as ledger:
        _print_spent(config.rates, ledger)
    parts, requests = under_way(run)
    if parts:
        print(f"batches     {parts:,} under way, with {requests:,} requests that wait for replies")
    found = read_report(run)
    if found is None:
        _print_unfinished(run)
        raise typer.Exit(1)
    _print_counts(found)
    if found["candidates"]["unanswered"] or found["positives"]["unanswered"]:
        _print_unfinished(run)
        raise typer.Exit(1)


def _print_unfinished(run: Path) -> None:
    from relabel.ledger import holder
    from relabel.text import pasteable, printable

    if writing := holder(run):
        print(f"not complete: {printable(writing)} is writing it")
    else:
        print(f"not complete: `{printable(pasteable('relabel', 'run', run))}` goes on")


def _retry(given: str | None) -> Any:
    from relabel.errors import ConfigError

    wanted = frozenset(part.strip() for part in given.split(",")) if given else frozenset()
    if unknown := wanted - {"abstained", "refused"}:
        raise ConfigError(f"--retry {', '.join(sorted(unknown))}: expected abstained or refused")
    return wanted


def _ledger_of(opened: Opened) -> Ledger:
    from relabel.folder import ledger_of

    return ledger_of(opened.folder, opened.config)


def _stderr() -> Console:
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def _tell(console: Console, message: str) -> None:
    from relabel.text import printable

    console.print(printable(message), markup=False, emoji=False, soft_wrap=True)


def _print_summary(summary: Summary) -> None:
    if summary.report is not None:
        _print_counts(summary.report)
    tiers = summary.progress.tiers
    sent, known = (sum(getattr(tier, name) for tier in tiers.values()) for name in ("sent", "from_ledger"))
    tail = "unchanged, nothing to do" if summary.unchanged else f"{sent:,} sent, {known:,} from the ledger"
    print(f"requests    {tail}")
    print(f"run         {summary.folder}")


def _asides(report: dict[str, Any]) -> str:
    """How many of the kept are undecided, and what else is kept for want of a judge."""
    asides = [f"{report['candidates']['undecided']:,} undecided"]
    if unjudged := report["rules"].get("unjudged"):
        asides.append(f"{unjudged:,} unjudged")
    if unanswered := report["candidates"]["unanswered"]:
        asides.append(f"PARTIAL: {unanswered:,} unanswered")
    return ", ".join(asides)


_HINTS = {
    "too_long": "The tier's `context` has no room for them beside the positives.",
    "length": "Replies were cut off: raise the tier's max_tokens, or set retry_max_tokens.",
    "empty_text": "They have no text.",
    "suspect_positive": "No answer was found in their positives: positives.parquet names these.",
    "no_majority": "The replies disagree: `votes` in the column `verdicts` of decisions.parquet counts them.",
}


def _warn(console: Console, report: dict[str, Any]) -> None:
    """Say so when a tier understood hardly anything: then the set is not cleaned, whatever the exit code."""
    for name, tier in report["tiers"].items():
        abstained = sum(tier["abstained"].values())
        if abstained * 2 > tier["candidates"]:
            reason, count = max(tier["abstained"].items(), key=lambda item: item[1])
            hint = _HINTS.get(reason, "The column `found` of decisions.parquet shows what came back.")
            _tell(
                console,
                f"Warning: tier {name} abstained on {abstained:,} of {tier['candidates']:,} candidates, mostly: "
                f"{reason} ({count:,}). {hint}",
            )


def _print_counts(report: dict[str, Any]) -> None:
    from relabel.text import printable

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


def _why(summary: Summary) -> str:
    """Why a run has ended before its time, what can be done, and what is safe."""
    from relabel.runs import safe
    from relabel.text import pasteable

    progress, words = summary.progress, [f"{summary.stopped}."]
    reasons = sorted(progress.unanswered.items(), key=lambda item: -item[1])
    words += [f"{count:,} requests got no reply: {reason}." for reason, count in reasons[:3]]
    if "--retry" in summary.goes_on_with:
        export = pasteable("relabel", "export", summary.folder, "--partial")
        words.append(f"`{export}` shows what came back, in the column `found` of decisions.parquet.")
    return " ".join([*words, safe(summary.folder, progress)])


def _command(more: Sequence[str] = ()) -> str:
    """The command that was given, without credentials, and with what it needs besides."""
    from relabel.text import pasteable, without_credentials

    words = pasteable("relabel", *map(without_credentials, sys.argv[1:]), *more)
    return f"{words} (with the user and password in the place of ***)" if "://***@" in words else words


def _print_estimate(tiers: list[TierEstimate]) -> None:
    if not tiers:
        print("no tier asks a model: nothing to pay for")
        return
    header = ("tier", "model", "calls to send", "answered", "tokens in", "tokens out", "cost", "calls are")
    rows = [header]
    for one in tiers:
        cost = f"${one.usd:,.2f}" if one.usd is not None else "unpriced"
        numbers = (f"{n:,}" for n in (one.calls, one.answered, one.prompt_tokens, one.completion_tokens))
        rows.append((one.tier, one.model, *numbers, cost, one.basis))  # type: ignore[arg-type]
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


def _print_spent(prices: dict[str, Any], ledger: Ledger) -> None:
    from relabel.costs import Prices

    for one in ledger.spent():
        cost = Prices(prices).cost(one.model, one.usage)
        shown = f"${cost:.4f}" if cost is not None else "unpriced"
        print(
            f"ledger      {one.tier} ({one.model}): {one.replies:,} replies, {one.refused:,} of them refused, "
            f"{one.usage.prompt:,} tokens in, {one.usage.completion:,} out, {shown}"
        )
