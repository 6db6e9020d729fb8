"""What is derived from a run: outcomes, the cleaned set, the decisions, the quarantine, the counts.

All of it is a pure function of (source, config, replies): the same ledger gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import orjson

from relabel.cascade import Cascade
from relabel.config import PolicySettings
from relabel.errors import Unfinished
from relabel.files import discard, partial_path
from relabel.formats import Sink
from relabel.ledger import Ledger
from relabel.meter import Meter
from relabel.parsing import REFUSED
from relabel.policy import decide
from relabel.records import Call, Case, Instance, Outcome, Quarantined, Reply, Verdicts
from relabel.report.pages import REPORT
from relabel.tables import DECISIONS, POSITIVES, DecisionsWriter, PositivesWriter
from relabel.tally import Tally
from relabel.text import public_name

QUARANTINE = "quarantine.jsonl"


def outcomes(
    records: Iterable[Instance | Quarantined],
    cascade: Cascade,
    policy: PolicySettings,
    ledger: Ledger,
    meter: Meter,
    *,
    needs_negatives: bool = False,
) -> Iterator[Outcome | Quarantined]:
    """Every record in order, decided from what the ledger holds; nothing is sent.

    `meter` is told of every call. `needs_negatives` says that the cleaned set's format cannot hold an instance without
    negatives.
    """
    for record in records:
        if isinstance(record, Quarantined):
            yield record
        else:
            yield decide(policy, _judged(cascade, record, ledger, meter), needs_negatives)


def for_others(record: Outcome | Quarantined) -> Outcome | Quarantined:
    """The record without what only this machine knows: what servers said of requests that they refused, and where
    models lie.
    """
    if isinstance(record, Quarantined):
        return record
    plain = {id(one): replace(one, verdicts=_for_others(one.verdicts)) for one in record.decisions}
    decisions = tuple(plain[id(one)] for one in record.decisions)
    return replace(record, decisions=decisions, positives=tuple(map(_for_others, record.positives)))


def _for_others(verdicts: Verdicts) -> Verdicts:
    return tuple(
        replace(one, found=None if one.abstained == REFUSED else one.found, model=one.model and public_name(one.model))
        for one in verdicts
    )


def _judged(cascade: Cascade, instance: Instance, ledger: Ledger, meter: Meter) -> Case:
    asking = cascade.judge(instance)
    meter.begin()
    replies: Sequence[Reply | None] | None = None
    try:
        while True:
            calls: Sequence[Call] = asking.send(replies)  # type: ignore[arg-type]
            replies = [ledger.get(call.request.key) for call in calls]
            meter.add(calls, replies)
    except StopIteration as finished:
        case: Case = finished.value
        return case


class Derived:
    """The derived files of a run, written side by side under other names and put in place together at the end."""

    def __init__(self, folder: Path, cleaned: Path, sink: Sink, *, positives: bool) -> None:
        """`positives` says whether a judge is asked about these, too."""
        self._sink = sink
        self._decisions = DecisionsWriter(partial_path(folder / DECISIONS))
        self._positives = PositivesWriter(partial_path(folder / POSITIVES)) if positives else None
        self._quarantine = partial_path(folder / QUARANTINE).open("wb")
        self._report = folder / REPORT
        self._paths = [cleaned, folder / DECISIONS, folder / QUARANTINE]
        self._paths += [folder / POSITIVES] if positives else []

    def write(self, record: Outcome | Quarantined) -> None:
        """Append a record to the files it belongs in."""
        if isinstance(record, Quarantined):
            self._quarantine.write(quarantine_line(record))
            return
        self._sink.write(record)
        self._decisions.write(record)
        if self._positives is not None:
            self._positives.write(record)

    def finish(self) -> None:
        """Close all files and put them in their places. A report of what was there before goes first: where one is, all
        the rest is as it says.
        """
        self._close()
        discard(self._report)
        for path in self._paths:
            discard(path)
            partial_path(path).replace(path)

    def abandon(self) -> None:
        """Close all files and leave nothing of them, also where a full disk does not even let them be closed."""
        with suppress(Exception):
            self._close()
        for path in self._paths:
            discard(partial_path(path))

    def _close(self) -> None:
        self._sink.close()
        self._decisions.close()
        self._quarantine.close()
        if self._positives is not None:
            self._positives.close()


def write_all(records: Iterable[Outcome | Quarantined], derived: Derived, *, partial: bool = False) -> Tally:
    """Write every record and count it. Raises Unfinished, and leaves nothing, if a candidate waits for a reply."""
    tally = Tally()
    try:
        for record in records:
            tally.add(record)
            derived.write(record)
        if tally.waiting and not partial:
            raise Unfinished(f"{tally.waiting} wait for a reply")
    except BaseException:
        derived.abandon()
        raise
    derived.finish()
    return tally


def quarantine_line(record: Quarantined) -> bytes:
    """One line of quarantine.jsonl."""
    content = {"line": record.line, "reason": record.reason, "record": record.record}
    return orjson.dumps(content, default=str, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS)
