"""Training sets, read and written: one module for each format, storage apart from layout.

`open_source` recognises what `input.path` names; a Source streams instances and opens sinks in its own format.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from itertools import islice
from pathlib import Path
from typing import Protocol

from relabel.errors import InputError
from relabel.formats.base import Format, Row
from relabel.formats.beir import Beir, is_beir
from relabel.formats.flagembedding import FlagEmbedding
from relabel.formats.sentence_transformers import LAYOUTS, SentenceTransformers
from relabel.formats.storage import FILES, RowSink, Store, new_file, open_store, refuse
from relabel.formats.tevatron import Tevatron
from relabel.records import Instance, Outcome, Quarantined

__all__ = ["FILES", "FORMATS", "Sink", "Source", "needs_negatives", "open_sink", "open_source"]

FORMATS = ("tevatron", "flagembedding", "sentence-transformers", "beir")
_SNIFFED = 100
_NO_CORPUS = "a set of another format cannot be written as beir: its passages share no corpus"


class Sink(Protocol):
    """Takes outcomes in order and writes the cleaned set."""

    def write(self, outcome: Outcome) -> None:
        """Append what is left of an instance."""

    def close(self) -> None:
        """Finish the output."""


class Source(Protocol):
    """A training set: a stream of instances, an identity, and a way to write its like."""

    format_name: str
    suffix: str
    needs_negatives: bool

    def __iter__(self) -> Iterator[Instance | Quarantined]:
        """All records in order, each an instance or quarantined."""

    def at(self, lines: Set[int]) -> Iterator[Instance]:
        """The instances that begin at these lines, in order; of a repeated id the number may be left out."""

    def identity(self) -> tuple[int, str]:
        """(size in bytes, sha256 in hex)."""

    def fraction(self) -> float | None:
        """The share that the latest iteration has read, where it can be told."""

    def sink(self, path: Path) -> Sink:
        """A place to write the cleaned set to, in this source's own format."""


class RowSource:
    """A format over a store."""

    def __init__(self, store: Store, layout: Format, subset: str) -> None:
        self._store = store
        self._format = layout
        self._subset = subset
        self.format_name = layout.name
        self.suffix = store.suffix
        self.needs_negatives = layout.needs_negatives
        self.identity = store.identity
        self.fraction = store.fraction

    def __iter__(self) -> Iterator[Instance | Quarantined]:
        """All records in order."""
        return self._format.read(self._store.rows(), self._subset)

    def at(self, lines: Set[int]) -> Iterator[Instance]:
        """Where each row is an instance, the other rows are skipped unread."""
        rows = self._store.rows(lines if self._format.one_row else None)
        found = self._format.read(rows, self._subset)
        return (record for record in found if isinstance(record, Instance) and record.line in lines)

    def sink(self, path: Path) -> Sink:
        """Unchanged instances are written as they came; a suffix other than the source's names another container."""
        other = path.name.endswith(FILES) and not path.name.endswith(self.suffix)
        rows = new_file(path) if other else self._store.sink(path, self._format.sides)
        return _RevisingSink(rows, self._format)


class _RevisingSink:
    def __init__(self, rows: RowSink, layout: Format) -> None:
        self._rows = rows
        self._format = layout

    def write(self, outcome: Outcome) -> None:
        if outcome.action == "remove":
            return
        if outcome.changed:
            revised = self._format.revise(outcome.instance, outcome.places("relabel"), outcome.places("drop"))
        else:
            origin = outcome.instance.origin
            revised = iter(origin if isinstance(origin, tuple) else (origin,))
        for row in revised:
            self._rows.write(row)

    def close(self) -> None:
        self._rows.close()


class _ComposingSink:
    def __init__(self, rows: RowSink, layout: Format) -> None:
        self._rows = rows
        self._format = layout
        self._number = 0

    def write(self, outcome: Outcome) -> None:
        if outcome.action == "remove":
            return
        for record in self._format.compose(cleaned(outcome)):
            self._number += 1
            self._rows.write(Row(self._number, record))

    def close(self) -> None:
        self._rows.close()


def cleaned(outcome: Outcome) -> Instance:
    """The instance as decided: relabelled candidates behind the positives, only kept ones among the negatives."""
    instance = outcome.instance
    moved = tuple(instance.negatives[place] for place in outcome.places("relabel"))
    kept = tuple(instance.negatives[place] for place in outcome.places("keep"))
    return Instance(instance.line, instance.query_id, instance.query, instance.positives + moved, kept, instance.subset)


def open_source(
    path: str,
    *,
    format: str = "auto",
    subset: str = "",
    name: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    run: str | None = None,
) -> Source:
    """The source at `path`; `format: auto` tells it by its columns.

    Raises InputError when the path cannot be read or no format fits.
    """
    if format == "beir" or (format == "auto" and is_beir(Path(path))):
        if not is_beir(Path(path)):
            raise InputError(f"{path}: not a BEIR folder; expected corpus.jsonl, queries.jsonl and qrels/")
        refuse(path, "a BEIR folder", name=name, revision=revision)
        return Beir(Path(path), split, run, subset)
    refuse(path, "what is no BEIR folder", run=run)
    store = open_store(path, name=name, split=split, revision=revision)
    return RowSource(store, _recognise(store, path, format), subset)


def open_sink(path: Path, format: str) -> Sink:
    """A sink that writes outcomes in another format than their source's: JSON Lines, or Parquet by its suffix."""
    if format == "beir":
        raise InputError(_NO_CORPUS)
    layout = _named(format)
    return _ComposingSink(new_file(path), layout)


def needs_negatives(format: str) -> bool:
    """Whether a format cannot hold an instance without negatives. Raises InputError for one that cannot be written."""
    if format == "beir":
        raise InputError(_NO_CORPUS)
    return _named(format).needs_negatives


def _named(format: str) -> Format:
    family, _, layout = format.partition(":")
    if format == "tevatron":
        return Tevatron()
    if format == "flagembedding":
        return FlagEmbedding()
    if family == "sentence-transformers" and (layout or "labeled-list") in LAYOUTS:
        return SentenceTransformers(layout or "labeled-list")
    known = [*FORMATS[:2], *(f"sentence-transformers:{name}" for name in LAYOUTS), "beir"]
    raise InputError(f"unknown format {format!r}; expected one of {', '.join(known)}")


def _recognise(store: Store, path: str, format: str) -> Format:
    if format in ("tevatron", "flagembedding") or ":" in format:
        return _named(format)
    family = [SentenceTransformers(layout) for layout in LAYOUTS]
    candidates: list[Format] = [Tevatron(), FlagEmbedding(), *family] if format == "auto" else [*family]
    if format not in ("auto", "sentence-transformers"):
        _named(format)
    columns: dict[str, None] = {}
    problem = None
    for row in islice(store.rows(), _SNIFFED):
        if row.problem is not None:
            problem = problem or f"line {row.number} is {row.problem}"
            continue
        for candidate in candidates:
            if candidate.recognises(row.record):
                return candidate
        columns.update(dict.fromkeys(row.record))
    found = f"the columns {', '.join(columns)}" if columns else problem or "no records in it"
    raise InputError(
        f"{path}: found {found}; expected query_id/query/positive_passages/negative_passages (tevatron), query/pos/neg "
        "(flagembedding), anchor/positive/negative… or anchor/passage/label (sentence-transformers), or a BEIR folder. "
        "Say which with input.format."
    )
