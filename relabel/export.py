"""A run's derived files, written: into its folder, to another place, to the hub. Nothing is sent to any model."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from relabel import __version__
from relabel.audits import audited, write_pages
from relabel.config import LedgerSettings
from relabel.derived import write_all
from relabel.errors import ConfigError, InputError, Unfinished
from relabel.files import discard, partial_path, write_whole
from relabel.folder import (
    PAGES,
    Opened,
    derived_files,
    discard_derived,
    fingerprint_of,
    guard,
    guard_card,
    is_within,
    judges_of,
    ledger_of,
    reopen,
    size_of,
    source_of,
    tables_up_to_date,
    write_config,
    write_people,
)
from relabel.formats import FILES, needs_negatives
from relabel.hub import Place, place_of, push
from relabel.labels import Name
from relabel.ledger import Ledger, segments
from relabel.log import Log
from relabel.meter import Meter
from relabel.report import CARD, REPORT, build_report, calibrations, read_report
from relabel.report.card import card
from relabel.tables import DECISIONS, POSITIVES
from relabel.text import pasteable

_ADDRESS = re.compile(r"\s*(\w+:/|hf:)", re.IGNORECASE)
"""What looks like an address: nobody means a folder by it."""

_UNWRITABLE = re.compile("[\0\ud800-\udfff]")
"""NUL, and bytes of a name that are no UTF-8."""


def derive(opened: Opened, ledger: Ledger, *, partial: bool = False, title: str = "") -> dict[str, Any]:
    """Write all derived files of a run into its folder, from its ledger alone; `title` is what the report calls it, its
    folder's name unless told. Raises Unfinished.
    """
    meter = Meter()
    guard(opened.folder, opened.config.input)
    discard(partial_path(opened.cleaned))
    tally = write_all(opened.outcomes(ledger, meter), opened.derived(), partial=partial)
    report = build_report(opened.config, tally, meter, ledger)
    report["source"] = source_of(opened)
    report["judges"] = judges_of(opened)
    report["calibrations"] = calibrations(opened.cascade, report["judges"], tally)
    report["policy"] = opened.config.policy.model_dump(mode="json")
    report["files"] = {path.name: size_of(path) for path in derived_files(opened)}
    report["fingerprint"] = fingerprint_of(opened, ledger)
    write_pages(opened, audited(opened, ledger, report), title)
    pages = (opened.folder / name for name in (*PAGES, REPORT))
    discard_derived(opened.folder, but=(*derived_files(opened), *pages))
    return report


def report_run(folder: str | Path, labels: Mapping[Name, bool] | None = None) -> dict[str, Any]:
    """Write a run's report again; `labels` are what people say of its candidates, by (query_id, docid), and stay.

    What is up to date is not derived again: its tables are asked anew. Raises RelabelError; Unfinished if replies are
    missing.
    """
    opened = reopen(folder)
    if labels is not None:
        write_people(opened.folder, labels)
    known = read_report(opened.folder)
    if known is None or not tables_up_to_date(opened, known):
        return _exported(opened, None, partial=False)[1]
    try:
        return report_again(opened, known)
    except InputError:  # the tables are damaged; the ledger is not
        return _exported(opened, None, partial=False)[1]


def report_again(opened: Opened, known: Mapping[str, Any]) -> dict[str, Any]:
    """Ask the tables of a run anew, and write its report. Raises InputError for tables that are damaged."""
    guard(opened.folder, opened.config.input)
    with ledger_of(opened.folder, opened.config) as ledger:
        report = audited(opened, ledger, {**known, "fingerprint": fingerprint_of(opened, ledger)})
    write_pages(opened, report)
    return report


def export_run(
    folder: str | Path,
    *,
    policy: str | None = None,
    format: str | None = None,
    to: str | Path | None = None,
    partial: bool = False,
    say: Callable[[str], None] = print,
) -> tuple[Path | str, dict[str, Any]]:
    """Derive a run's files again, from its ledger alone; returns where the cleaned set is, and the report.

    Without `to` they take the place of the run's own, and another policy or format becomes the run's. A `to` with a
    file's suffix takes the cleaned set alone, with its card; `hf://owner/name` pushes it, with decisions, report and
    card, to a dataset on the hub; otherwise it is a folder for all that is derived.
    Raises RelabelError; Unfinished if replies are missing and `partial` is not set.
    """
    opened = reopen(folder, policy=policy)
    if format is not None:
        output = opened.config.output.model_copy(update={"format": format})
        opened = replace(opened, config=opened.config.model_copy(update={"output": output}))
        if opened.converted:
            needs_negatives(opened.converted)
    return _exported(opened, to, partial, say)


def _exported(
    opened: Opened, to: str | Path | None, partial: bool, say: Callable[[str], None] = print
) -> tuple[Path | str, dict[str, Any]]:
    try:
        return _export(opened, to, partial, say)
    except Unfinished as fault:
        raise Unfinished(
            f"{fault}. `{pasteable('relabel', 'run', opened.folder)}` goes on; "
            f"`{pasteable('relabel', 'export', opened.folder, '--partial')}` exports what there is."
        ) from None


def _export(
    opened: Opened, to: str | Path | None, partial: bool, say: Callable[[str], None]
) -> tuple[Path | str, dict[str, Any]]:
    if to is None:
        with Ledger(opened.folder, opened.config.ledger.read, write=True) as ledger, Log(opened.folder) as log:
            report = derive(opened, ledger, partial=partial)
            write_config(opened)
            log.write("exported", instances=report["instances"], candidates=report["candidates"])
        return opened.cleaned, report
    if not str(to):
        raise ConfigError("--to: is empty, expected a file, a folder, or hf://owner/name")
    given = str(to)
    if _UNWRITABLE.search(given) or (_ADDRESS.match(given) and not given.startswith("hf://")):
        raise ConfigError(f"--to {given!r}: expected a file, a folder, or hf://owner/name")
    with ledger_of(opened.folder, opened.config) as ledger:
        if given.startswith("hf://"):
            return _export_to_hub(opened, ledger, place_of(given), partial, say)
        place = Path(given)
        as_folder = not place.suffix or place.is_dir() or given.endswith("/")
        return (_export_folder if as_folder else _export_file)(opened, ledger, place, partial)


def _export_to_hub(
    opened: Opened, ledger: Ledger, place: Place, partial: bool, say: Callable[[str], None]
) -> tuple[str, dict[str, Any]]:
    """The cleaned set with its decisions, report and card. What names this machine or its servers stays here."""
    with tempfile.TemporaryDirectory(prefix="relabel-") as scratch:
        elsewhere = replace(_moved(opened, Path(scratch)), public=True)
        report = derive(elsewhere, ledger, partial=partial, title=place.repo_id)
        shown = [elsewhere.cleaned, *(elsewhere.folder / name for name in (DECISIONS, POSITIVES, REPORT, *PAGES))]
        files = {path.name: path for path in shown if path.exists()}
        return push(place, files, f"Cleaned by relabel {__version__}", say), report


def _moved(opened: Opened, folder: Path) -> Opened:
    """The run with another folder, which reads the run's ledger, and what people say there."""
    read = LedgerSettings(read=[str(opened.folder.absolute()), *opened.config.ledger.read])
    return replace(opened, folder=folder, config=opened.config.model_copy(update={"ledger": read}))


def _export_folder(opened: Opened, ledger: Ledger, place: Path, partial: bool) -> tuple[Path, dict[str, Any]]:
    """A folder for all that is derived, with a config that reads the run's ledger: `verify` works on it, too."""
    place.mkdir(parents=True, exist_ok=True)
    if segments(place):
        raise ConfigError(f"{place}: holds a run of its own, with its ledger; export to another folder")
    elsewhere = _moved(opened, place)
    report = derive(elsewhere, ledger, partial=partial)
    write_config(elsewhere)
    return elsewhere.cleaned, report


def _export_file(opened: Opened, ledger: Ledger, place: Path, partial: bool) -> tuple[Path, dict[str, Any]]:
    """The cleaned set alone."""
    sources = filter(None, (opened.config.input.path, opened.config.input.run))
    if any(is_within(place, Path(source)) for source in sources):
        raise ConfigError(f"{place}: is the run's own source; export to another place")
    if place.parent.resolve() == opened.folder.resolve():
        raise ConfigError(f"{place}: lies among the run's own files; export to another folder")
    if not place.name.endswith((*FILES, opened.source.suffix)):
        known = ", ".join(dict.fromkeys([opened.source.suffix, ".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"]))
        raise ConfigError(f"{place}: unknown suffix; expected one of {known}")
    beside = place.with_name(f"{place.name}.{CARD}")
    guard_card(beside)
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".relabel-", dir=place.parent) as scratch:
        elsewhere = replace(_moved(opened, Path(scratch)), named=f"cleaned-{place.name}")
        report = derive(elsewhere, ledger, partial=partial)
        discard(place)
        elsewhere.cleaned.replace(place)
        described = card(report, opened.config, place, alone=True)
        write_whole(beside, described.encode())
    return place, report
