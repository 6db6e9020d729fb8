"""Does a run's folder hold what its source, config and ledger say it must? Everything is derived anew and compared."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from relabel.derived import write_all
from relabel.folder import Opened, derived_files
from relabel.ledger import Ledger
from relabel.meter import Meter
from relabel.report import REPORT, counts, read_report
from relabel.text import pasteable

_SHOWN = 5


def verify(opened: Opened, ledger: Ledger) -> Iterator[str]:
    """What differs, in words, one finding at a time; nothing if all is as it must be.

    Checks every stored reply against its digest, that each request which the source and config ask for has a reply
    under its own key, and each derived file byte for byte.
    """
    damage = 0
    for finding in ledger.damaged():
        damage += 1
        yield finding
    if damage:
        yield f"`{pasteable('relabel', 'verify', '--salvage', opened.folder)}` keeps what can be read of the ledger"
    with tempfile.TemporaryDirectory(prefix="relabel-verify-") as scratch:
        again = replace(opened, folder=Path(scratch))
        meter = Meter()
        tally = write_all(again.outcomes(ledger, meter), again.derived(), partial=True)
        report = read_report(opened.folder)
        if tally.waiting:
            goes_on = pasteable("relabel", "run", opened.folder)
            yield f"{tally.waiting} wait for a reply that is not in the ledger; `{goes_on}` goes on"
        if report is not None:
            wrong = [name for name, value in counts(tally, meter).items() if report.get(name) != value]
            if wrong:
                yield f"{REPORT}: is not what the ledger says; it differs in {', '.join(wrong)}"
        elif (opened.folder / REPORT).exists():
            yield f"{REPORT}: is damaged, or was edited; `relabel export` writes it again"
        elif tally.waiting:
            return
        else:
            yield f"{REPORT}: is missing; `relabel export` writes it again"
        for expected in derived_files(again):
            there, name = opened.folder / expected.name, expected.name
            if not there.exists():
                yield f"{name}: is missing; `relabel export` writes it again"
            elif differing := _differing(there, expected):
                yield f"{name}: is not what the ledger says; {differing}; `relabel export` writes it again"


def _differing(there: Path, expected: Path) -> str:
    """Where two files, or two folders of files, differ; nothing if they do not."""
    if expected.is_dir():
        names = sorted({p.relative_to(root) for root in (there, expected) for p in root.rglob("*") if p.is_file()})
        faults = [str(name) for name in names if not _same(there / name, expected / name)]
        return f"in {', '.join(faults[:_SHOWN])}" if faults else ""
    if _same(there, expected):
        return ""
    if there.suffix == ".parquet":
        return _differing_rows(there, expected)
    return _differing_lines(there, expected)


def _same(one: Path, other: Path) -> bool:
    if not (one.is_file() and other.is_file()) or one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as first, other.open("rb") as second:
        while block := first.read(1 << 20):
            if block != second.read(1 << 20):
                return False
    return True


def _differing_lines(there: Path, expected: Path) -> str:
    with there.open("rb") as first, expected.open("rb") as second:
        for number, (line, wanted) in enumerate(zip(first, second, strict=False), 1):
            if line != wanted:
                return f"first in line {number}"
    return "one is longer than the other"


def _differing_rows(there: Path, expected: Path) -> str:
    """The first rows that differ, by query and docid where they have such."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        files = pq.ParquetFile(there), pq.ParquetFile(expected)
    except (pa.ArrowException, OSError) as fault:
        return f"it cannot be read: {str(fault).splitlines()[0]}"
    counts = [file.metadata.num_rows for file in files]
    if counts[0] != counts[1]:
        return f"it has {counts[0]:,} rows, expected {counts[1]:,}"
    start = 0
    for one, other in zip(*(file.iter_batches(1000) for file in files), strict=False):
        for number, (row, wanted) in enumerate(zip(one.to_pylist(), other.to_pylist(), strict=True), start + 1):
            if row != wanted:
                where = f" (query {row.get('query_id')}, passage {row.get('docid')})" if "query_id" in row else ""
                names = [name for name in wanted if row.get(name) != wanted[name]]
                return f"first in row {number}{where}: {', '.join(names)}"
        start += len(one)
    return "the rows are equal, the files are not"
