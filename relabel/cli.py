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

    from relabel.folder import Opened
    from relabel.ledger import Ledger

app = typer.Typer(
    help="Find the false negatives among mined hard negatives, and write the cleaned training set back.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

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

Labels = Annotated[
    str | None, typer.Option(metavar="FILE", help="Human labels (JSONL, Parquet): query_id, docid, grade.")
]
Relevant = Annotated[float | None, typer.Option(metavar="GRADE", help="The least grade of a relevant passage.")]


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
    from relabel.printing import print_summary, warnings, why
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
    print_summary(summary)
    if summary.report is not None:
        for warning in warnings(summary.report):
            _tell(console, warning)
    if summary.stopped:
        _tell(console, f"Stopped: {why(summary).removesuffix('.')}: {_command(summary.goes_on_with)}")
        raise typer.Exit(1)


@app.command()
def estimate(config: ConfigPath, set_: Overrides = None, limit: Limit = None, output: Output = None) -> None:
    """Say what a run will take: calls, tokens and cost per tier. Sends nothing."""
    from relabel.estimate import estimate as count
    from relabel.folder import open_run, with_options
    from relabel.ledger import Ledger, segments
    from relabel.loading import load_config
    from relabel.printing import print_estimate

    opened = open_run(with_options(load_config(config, set_ or []), limit, output))
    if segments(opened.folder) or opened.config.ledger.read:
        with Ledger(opened.folder, opened.config.ledger.read) as ledger:
            tiers = count(opened, ledger)
    else:
        tiers = count(opened, None)
    print_estimate(tiers)


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
        typer.Option(
            metavar="PATH",
            help="A file for the cleaned set alone, a folder/ for all that is derived, or hf://owner/name.",
        ),
    ] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Export even if replies are missing.")] = False,
) -> None:
    """Derive the cleaned set again from a run's ledger, under another policy or in another format. Sends nothing."""
    from relabel.export import export_run
    from relabel.printing import print_counts
    from relabel.text import printable

    written, report = export_run(
        run, policy=policy, format=format, to=to, partial=partial, say=lambda message: _tell(_stderr(), message)
    )
    print_counts(report)
    print(printable(f"cleaned     {written}"))


@app.command()
def report(run: RunFolder, labels: Labels = None, relevant: Relevant = None) -> None:
    """Write a run's report (report.html, .md, .json) and its dataset card, and print what it says. Sends nothing."""
    from relabel.export import report_run
    from relabel.printing import print_checks, print_counts
    from relabel.text import printable

    found = report_run(run, _labels(labels, relevant))
    print_counts(found)
    print_checks(found)
    print(printable(f"report      {run / 'report.html'}"))


@app.command()
def diff(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", help="A run's folder.")],
    run_b: Annotated[Path, typer.Argument(metavar="RUN_B", help="Another run's, over the same candidates.")],
    labels: Labels = None,
    relevant: Relevant = None,
    to: Annotated[Path, typer.Option(metavar="FILE", help="The page; its numbers go beside it as .json.")] = Path(
        "diff.html"
    ),
) -> None:
    """Say what two runs decide differently, with both sides' evidence, and what that costs. Sends nothing."""
    from relabel.differences import check_place, difference, write_difference
    from relabel.printing import print_difference
    from relabel.text import printable

    check_place(to)
    found = difference(run_a, run_b, _labels(labels, relevant))
    write_difference(found, to)
    print_difference(found)
    print(printable(f"page        {to}"))


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
    print(printable(f"{run}: every reply, key, decision and byte is as it must be"))


@app.command()
def calibrate(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE…",
            help="A pilot run's folder, or verdict tables (JSONL, Parquet): query_id, docid, tier, judge, sample, and "
            "a label or a score.",
        ),
    ],
    labels: Annotated[str, typer.Option(metavar="FILE", help="Human labels (JSONL, Parquet): query_id, docid, grade.")],
    relevant: Annotated[float, typer.Option(metavar="GRADE", help="The least grade of a relevant passage.")],
    strong: Annotated[str, typer.Option(metavar="TIER", help="The tier whose calls are to be saved.")],
    found: Annotated[
        str | None,
        typer.Option(
            metavar="LABELS",
            help="Its labels that mean relevant, with commas; of a run, those that its policy acts on.",
        ),
    ] = None,
    share: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Escalate this share of the candidates (0.3 unless told).")
    ] = None,
    usd: Annotated[
        float | None,
        typer.Option(metavar="USD", help="Or as many as have strong calls cost so much for a thousand candidates."),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            metavar="MISS:ALARM:CALL",
            help="Or what makes least of what a missed false negative, a false alarm and a call cost: 5:1:0.05.",
        ),
    ] = None,
    strong_price: Annotated[
        float | None, typer.Option(metavar="USD", help="What a strong verdict costs, where no pilot's ledger tells.")
    ] = None,
    to: Annotated[Path, typer.Option(metavar="FILE", help="Where the calibration goes.")] = Path("calibration.json"),
) -> None:
    """Learn from a pilot with human labels when the cheap judges know enough. Sends nothing."""
    from relabel.printing import print_learnt

    _need("scikit-learn", "sklearn", "calibrate")
    from relabel.calibrating.files import learn
    from relabel.calibrating.target import target_of

    wanted = [one.strip() for one in found.split(",") if one.strip()] if found else []
    target = target_of(share, usd, loss, strong_price)
    print_learnt(*learn(sources, labels, relevant, strong, wanted, target, strong_price, to), to)


@app.command()
def cancel(run: RunFolder) -> None:
    """Cancel a run's batches that are under way. What they have answered is paid, and the next run takes it in."""
    from relabel.runs import cancel_run
    from relabel.text import pasteable, printable

    found = cancel_run(run, say=lambda message: _tell(_stderr(), message))
    for batch in found:
        print(printable(f"cancelled   {batch}"))
    goes_on = pasteable("relabel", "run", run)
    print(f"`{printable(goes_on)}` takes in what was answered" if found else "no batch is under way at a server")


@app.command()
def status(run: RunFolder) -> None:
    """Say what a run's ledger holds, what it cost, and whether the run is complete."""
    from relabel.clients.batches.spool import under_way
    from relabel.folder import ledger_of, recorded_config
    from relabel.printing import print_counts, print_spent, print_unfinished
    from relabel.report import read_report

    config, _ = recorded_config(run)
    with ledger_of(run, config) as ledger:
        print_spent(config.rates, ledger)
    for written, words in ((False, "submitted"), (True, "written for you to have answered")):
        parts, requests = under_way(run, written=written)
        if parts:
            print(f"batches     {parts:,} {words}, {requests:,} requests of theirs not taken in yet")
    found = read_report(run)
    if found is None:
        print_unfinished(run)
        raise typer.Exit(1)
    print_counts(found)
    if found["candidates"]["unanswered"] or found["positives"]["unanswered"]:
        print_unfinished(run)
        raise typer.Exit(1)


def _need(library: str, module: str, extra: str) -> None:
    from importlib.util import find_spec

    from relabel.errors import ConfigError

    if find_spec(module) is None:
        raise ConfigError(f"{library} is not installed: pip install 'relabel[{extra}]'")


def _labels(labels: str | None, relevant: float | None) -> dict[tuple[str, str], bool] | None:
    from relabel.errors import ConfigError
    from relabel.labels import read_labels

    if (labels is None) != (relevant is None):
        raise ConfigError("--labels and --relevant: expected both, a file and the least grade of a relevant passage")
    return None if labels is None or relevant is None else read_labels(labels, relevant)


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


def _command(more: Sequence[str] = ()) -> str:
    """The command that was given, without credentials, and with what it needs besides."""
    from relabel.text import pasteable, without_credentials

    words = pasteable("relabel", *map(without_credentials, sys.argv[1:]), *more)
    return f"{words} (with the user and password in the place of ***)" if "://***@" in words else words
