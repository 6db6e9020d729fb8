"""What is derived from a run: outcomes, the cleaned set, the decisions, the quarantine, the counts.

All of it is a pure function of (source, config, replies): the same ledger gives the same bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from relabel.arrow import without_pandas
from relabel.cascade import Cascade
from relabel.config import PolicySettings
from relabel.errors import Unfinished
from relabel.formats import Sink, Source
from relabel.ledger import Ledger
from relabel.policy import decide
from relabel.records import Call, Instance, Outcome, Quarantined, Reply, Verdict
from relabel.tally import Tally

DECISIONS, QUARANTINE = "decisions.parquet", "quarantine.jsonl"
_ROW_GROUP = 20_000


def outcomes(
    source: Source,
    cascade: Cascade,
    policy: PolicySettings,
    ledger: Ledger,
    *,
    limit: int | None = None,
    needs_negatives: bool = False,
) -> Iterator[Outcome | Quarantined]:
    """Every record of the source in order, decided from what the ledger holds; nothing is sent.

    `needs_negatives` says that the cleaned set's format cannot hold an instance without negatives.
    """
    for record in islice(source, limit):
        if isinstance(record, Quarantined):
            yield record
        else:
            yield decide(policy, record, _judged(cascade, record, ledger), needs_negatives)


def _judged(cascade: Cascade, instance: Instance, ledger: Ledger) -> list[tuple[Verdict, ...]]:
    asking = cascade.judge(instance)
    replies: Sequence[Reply | None] | None = None
    try:
        while True:
            calls: Sequence[Call] = asking.send(replies)  # type: ignore[arg-type]
            replies = [ledger.get(call.request.key) for call in calls]
    except StopIteration as finished:
        return list(finished.value)


class Derived:
    """The derived files of a run, written side by side under other names and put in place together at the end."""

    def __init__(self, folder: Path, cleaned: Path, sink: Sink) -> None:
        self._folder = folder
        self._cleaned = cleaned
        self._sink = sink
        self._decisions = DecisionsWriter(partial_path(folder / DECISIONS))
        self._quarantine = partial_path(folder / QUARANTINE).open("wb")

    def write(self, record: Outcome | Quarantined) -> None:
        """Append a record to the files it belongs in."""
        if isinstance(record, Quarantined):
            self._quarantine.write(quarantine_line(record))
        else:
            self._sink.write(record)
            self._decisions.write(record)

    def finish(self) -> None:
        """Close all files and put them in their places."""
        self._close()
        for path in (self._cleaned, self._folder / DECISIONS, self._folder / QUARANTINE):
            discard(path)
            partial_path(path).replace(path)

    def abandon(self) -> None:
        """Close all files and leave nothing of them."""
        self._close()
        for path in (self._cleaned, self._folder / DECISIONS, self._folder / QUARANTINE):
            discard(partial_path(path))

    def _close(self) -> None:
        self._sink.close()
        self._decisions.close()
        self._quarantine.close()


def write_all(records: Iterable[Outcome | Quarantined], derived: Derived, *, partial: bool = False) -> Tally:
    """Write every record and count it. Raises Unfinished, and leaves nothing, if a candidate waits for a reply."""
    tally = Tally()
    try:
        for record in records:
            tally.add(record)
            derived.write(record)
        if tally.unanswered and not partial:
            raise Unfinished(
                f"{tally.unanswered} candidates wait for a reply. `relabel run` goes on; --partial exports as it is."
            )
    except BaseException:
        derived.abandon()
        raise
    derived.finish()
    return tally


class DecisionsWriter:
    """Streams decisions.parquet: one row per candidate, in input order."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        without_pandas()
        text, number = pa.string(), pa.float64()
        self._schema = pa.schema(
            [
                *[(name, text) for name in ("query_id", "docid", "subset")],
                ("position", pa.int32()),
                *[(name, text) for name in ("action", "instance_action", "rule", "tier", "label")],
                ("score", number),
                *[(name, text) for name in ("evidence", "reason", "verdicts", "instance_rule")],
                ("mined_score", number),
                ("line", pa.int64()),
            ]
        )
        self._columns: dict[str, list[Any]] = {name: [] for name in self._schema.names}
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")

    def write(self, outcome: Outcome) -> None:
        """Append a row for each of the instance's candidates."""
        columns, instance, count = self._columns, outcome.instance, len(outcome.decisions)
        columns["query_id"] += [instance.query_id] * count
        columns["subset"] += [instance.subset] * count
        columns["position"] += range(1, count + 1)
        columns["instance_action"] += [outcome.action] * count
        columns["instance_rule"] += [outcome.rule] * count
        columns["line"] += [instance.line] * count
        columns["docid"] += [passage.docid for passage in instance.negatives]
        columns["mined_score"] += [passage.score for passage in instance.negatives]
        columns["action"] += [decision.action for decision in outcome.decisions]
        columns["rule"] += [decision.rule for decision in outcome.decisions]
        columns["reason"] += [decision.reason for decision in outcome.decisions]
        finals = [decision.verdicts[-1] if decision.verdicts else None for decision in outcome.decisions]
        columns["tier"] += [final and final.tier for final in finals]
        columns["label"] += [final and final.label for final in finals]
        columns["score"] += [final and final.score for final in finals]
        columns["evidence"] += [final and final.evidence for final in finals]
        said: dict[int, str] = {}
        for decision in outcome.decisions:
            found = said.get(id(decision))
            if found is None:
                found = said[id(decision)] = verdicts_json(decision.verdicts)
            columns["verdicts"].append(found)
        if len(columns["line"]) >= _ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        self._writer.write_table(pa.table(self._columns, schema=self._schema))
        for column in self._columns.values():
            column.clear()

    def close(self) -> None:
        """Write what is left, and the footer."""
        if self._columns["line"]:
            self._flush()
        self._writer.close()


def verdicts_json(verdicts: Sequence[Verdict]) -> str:
    """The verdicts behind a decision as a JSON list, first tier first; what a verdict does not have is left out."""
    said = []
    for verdict in verdicts:
        fields = {name: getattr(verdict, name) for name in Verdict.__slots__}
        said.append({name: value for name, value in fields.items() if value is not None})
    return orjson.dumps(said).decode()


def quarantine_line(record: Quarantined) -> bytes:
    """One line of quarantine.jsonl."""
    content = {"line": record.line, "reason": record.reason, "record": record.record}
    return orjson.dumps(content, default=str, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS)


def partial_path(path: Path) -> Path:
    """Where a file is written before it is whole; its suffix stays, so that writers still recognise it."""
    return path.with_name(f".partial-{path.name}")


def discard(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
