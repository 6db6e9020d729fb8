"""BEIR: a folder with `corpus.jsonl`, `queries.jsonl`, `qrels/SPLIT.tsv`, and a TREC run file with the mined negatives.

A query's positives are its passages with a relevance above 0; its candidates are the run's other passages, in the
order of the run. The cleaned set is such a folder again: relabelled candidates stand in the qrels, and the run holds
the negatives that stay. Both list their lines query by query; those that nothing changed are the very lines read.

Look-ups go through a temporary index on disk, so memory does not grow with the corpus.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Set
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from relabel.errors import InputError
from relabel.formats.base import (
    Record,
    RecordError,
    check_positives,
    file_identity,
    optional_text,
    want_id,
    want_text,
)
from relabel.formats.jsonlines import json_row
from relabel.loading import is_file
from relabel.records import Instance, Outcome, Passage, Quarantined

_RUNS = ("run.trec", "run.tsv", "run.txt", "negatives.trec")
_HEADERS = ("score", "relevance", "label")


class Beir:
    """A BEIR folder as a source of instances, one for each query of the qrels or the run, in the order they appear."""

    format_name = "beir"
    suffix = ".beir"
    needs_negatives = False

    def __init__(self, folder: Path, split: str | None, run: str | None, subset: str) -> None:
        self.folder = folder
        self.split = split or _only_split(folder)
        self.qrels = folder / "qrels" / f"{self.split}.tsv"
        if not is_file(self.qrels):
            raise InputError(f"{self.qrels}: no such file; input.split names a file of {folder / 'qrels'}")
        self.run = _run_file(folder, run)
        self.subset = subset or folder.name
        self._fraction = 0.0

    def _files(self) -> list[Path]:
        return [self.folder / "corpus.jsonl", self.folder / "queries.jsonl", self.qrels, self.run]

    def identity(self) -> tuple[int, str]:
        """Of the four files."""
        return file_identity(self._files())

    def fraction(self) -> float | None:
        """By queries."""
        return self._fraction

    def __iter__(self) -> Iterator[Instance | Quarantined]:
        """Faulty lines first, then queries in the order of the qrels, then those that only the run knows."""
        with (
            tempfile.TemporaryDirectory(prefix="relabel-beir-") as scratch,
            closing(_Index(Path(scratch) / "index.sqlite", *self._files())) as index,
        ):
            yield from index.faults
            total = max(index.count("asked"), 1)
            for number, (query_id, line) in enumerate(index.queries(), 1):
                self._fraction = number / total
                try:
                    yield self._instance(index, query_id, line)
                except RecordError as fault:
                    yield Quarantined(line, str(fault), {"query_id": query_id})

    def at(self, lines: Set[int]) -> Iterator[Instance]:
        """Those of all that begin there: a line of the qrels, or of the run."""
        return (record for record in self if isinstance(record, Instance) and record.line in lines)

    def _instance(self, index: _Index, query_id: str, line: int) -> Instance:
        query = index.record("query", query_id)
        if query is None:
            raise RecordError(f"query {query_id!r} is not in queries.jsonl")
        text = want_text(query, "text", f"query {query_id!r}: ")
        judged, mined = index.judged(query_id), index.mined(query_id)
        relevant = {found.docid: None for found in judged if found.value > 0}
        positives = tuple(_passage(index, docid) for docid in relevant)
        check_positives(positives)
        negatives = tuple(_passage(index, found.docid, found.value) for found in mined if found.docid not in relevant)
        return Instance(line, query_id, text, positives, negatives, self.subset, (judged, mined))

    def sink(self, path: Path) -> BeirSink:
        """A BEIR folder at `path`."""
        if path.name.endswith((".jsonl", ".json", ".gz", ".zst", ".parquet")):
            raise InputError(f"{path}: a BEIR set is a folder; name one, such as {path.stem}.beir")
        return BeirSink(path, self)


class BeirSink:
    """Writes the split's qrels and the run anew; queries, corpus and other splits are copied as they are."""

    def __init__(self, path: Path, source: Beir) -> None:
        shutil.copytree(source.folder / "qrels", path / "qrels")
        for name in ("corpus.jsonl", "queries.jsonl"):
            shutil.copyfile(source.folder / name, path / name)
        self._qrels = (path / "qrels" / source.qrels.name).open("w", encoding="utf-8", newline="")
        self._run = (path / "run.trec").open("w", encoding="utf-8", newline="")
        for number, line in _lines(source.qrels):
            if number == 1 and _is_header(line):
                self._qrels.write(line)
            break

    def write(self, outcome: Outcome) -> None:
        """The query's lines, unless the instance is removed."""
        if outcome.action == "remove":
            return
        judged, mined = outcome.instance.origin
        negatives = outcome.instance.negatives
        moved = dict.fromkeys(negatives[place].docid for place in outcome.places("relabel"))
        relevant = {found.docid for found in judged if found.value > 0}
        actions = iter(decision.action for decision in outcome.decisions)
        self._qrels.writelines(found.raw for found in judged if found.docid not in moved)
        self._qrels.writelines(judged[0].with_docid(docid) for docid in moved)
        self._run.writelines(found.raw for found in mined if found.docid in relevant or next(actions) == "keep")

    def close(self) -> None:
        """Flush both files."""
        self._qrels.close()
        self._run.close()


@dataclass(frozen=True, slots=True)
class _Line:
    """A passage as a line of the qrels or of the run names it, with its relevance or its score."""

    docid: str
    value: float
    raw: str

    def with_docid(self, docid: str) -> str:
        """This line of the qrels, about another passage that is relevant."""
        body = self.raw.rstrip("\r\n")
        separator = "\t" if "\t" in body else " "
        fields = body.split("\t") if "\t" in body else body.split()
        said = [fields[0], docid] if len(fields) == 2 else [*fields[:-2], docid, "1"]
        return separator.join(said) + self.raw[len(body) :]


class _Index:
    """Offsets of queries and passages, and the lines of qrels and run, by query."""

    def __init__(self, at: Path, corpus: Path, queries: Path, qrels: Path, run: Path) -> None:
        self.faults: list[Quarantined] = []
        self._files = {"passage": corpus.open("rb"), "query": queries.open("rb")}
        self._db = sqlite3.connect(at, isolation_level=None, check_same_thread=False)
        self._db.executescript(
            """PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; BEGIN;
            CREATE TABLE place (kind TEXT, id TEXT, offset INTEGER, PRIMARY KEY (kind, id)) WITHOUT ROWID;
            CREATE TABLE judged (query_id TEXT, docid TEXT, value INTEGER, raw TEXT);
            CREATE TABLE mined (query_id TEXT, docid TEXT, value REAL, raw TEXT);
            CREATE TABLE asked (query_id TEXT PRIMARY KEY, line INTEGER);"""
        )
        for kind, file in self._files.items():
            self._scan(kind, Path(file.name).name)
        self._read_qrels(qrels)
        self._read_run(run)
        self._db.executescript("CREATE INDEX by_judged ON judged(query_id); CREATE INDEX by_mined ON mined(query_id);")

    def _scan(self, kind: str, name: str) -> None:
        file = self._files[kind]
        for number, raw in enumerate(iter(file.readline, b""), 1):
            if not raw.strip():
                continue
            row = json_row(number, raw)
            try:
                identity = want_id(row.parsed(), "_id")
            except RecordError as fault:
                self.faults.append(Quarantined(number, f"{name}: {fault}", row.record))
                continue
            offset = file.tell() - len(raw)
            self._db.execute("INSERT OR IGNORE INTO place VALUES (?, ?, ?)", (kind, identity, offset))

    def _read_qrels(self, path: Path) -> None:
        for number, line in _lines(path):
            if number == 1 and _is_header(line):
                continue
            fields = line.rstrip("\r\n").split("\t") if "\t" in line else line.split()
            try:
                query_id, docid, relevance = (*fields, "1") if len(fields) == 2 else (fields[0], *fields[-2:])
                self._insert("judged", number, query_id, docid, int(relevance), line)
            except (ValueError, OverflowError):
                self._refuse(number, f"{path.name}: expected query-id, corpus-id and a whole number", line)

    def _read_run(self, path: Path) -> None:
        for number, line in _lines(path):
            try:
                query_id, _, docid, _, score, *_ = line.split()
                self._insert("mined", number, query_id, docid, float(score), line)
            except ValueError:
                self._refuse(number, f"{path.name}: expected query-id Q0 corpus-id rank score tag", line)

    def _insert(self, table: str, number: int, query_id: str, docid: str, value: float, line: str) -> None:
        whole = line if line.endswith("\n") else line + "\n"
        self._db.execute(f"INSERT INTO {table} VALUES (?, ?, ?, ?)", (query_id, docid, value, whole))
        self._db.execute("INSERT OR IGNORE INTO asked VALUES (?, ?)", (query_id, number))

    def _refuse(self, number: int, expected: str, line: str) -> None:
        shown = line.encode(errors="surrogateescape").decode(errors="backslashreplace").rstrip("\r\n")
        self.faults.append(Quarantined(number, f"{expected}; found {shown[:200]!r}", shown))

    def count(self, table: str) -> int:
        """Rows of a table."""
        return int(self._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    def queries(self) -> Iterator[tuple[str, int]]:
        """(query_id, line) in the order of first appearance."""
        yield from self._db.execute("SELECT query_id, line FROM asked ORDER BY rowid")

    def judged(self, query_id: str) -> list[_Line]:
        """A query's qrels."""
        return self._named("judged", query_id)

    def mined(self, query_id: str) -> list[_Line]:
        """A query's part of the run."""
        return self._named("mined", query_id)

    def _named(self, table: str, query_id: str) -> list[_Line]:
        query = f"SELECT docid, value, raw FROM {table} WHERE query_id = ? ORDER BY rowid"
        return [_Line(*found) for found in self._db.execute(query, (query_id,))]

    def record(self, kind: str, identity: str) -> Record | None:
        """A query or a passage as it stands in its file."""
        found = self._db.execute("SELECT offset FROM place WHERE kind = ? AND id = ?", (kind, identity)).fetchone()
        if found is None:
            return None
        file = self._files[kind]
        file.seek(found[0], os.SEEK_SET)
        return json_row(1, file.readline()).parsed()

    def close(self) -> None:
        """Close all files."""
        self._db.close()
        for file in self._files.values():
            file.close()


def _passage(index: _Index, docid: str, score: float | None = None) -> Passage:
    record = index.record("passage", docid)
    if record is None:
        raise RecordError(f"passage {docid!r} is not in corpus.jsonl")
    where = f"passage {docid!r}: "
    return Passage(docid, optional_text(record, "title", where), optional_text(record, "text", where), score)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line


def _is_header(line: str) -> bool:
    return line.split()[-1].lower() in _HEADERS


def _only_split(folder: Path) -> str:
    splits = sorted(path.stem for path in (folder / "qrels").glob("*.tsv"))
    if "train" in splits:
        return "train"
    if len(splits) == 1:
        return splits[0]
    found = ", ".join(splits) if splits else "none"
    raise InputError(f"{folder}/qrels: found {found}, expected train.tsv; say which one with input.split")


def _run_file(folder: Path, run: str | None) -> Path:
    if run is not None:
        path = next(filter(is_file, (Path(run), folder / run)), None)
        if path is not None:
            return path
        raise InputError(f"{run}: no such run file; input.run names a TREC run (query-id Q0 corpus-id rank score tag)")
    found = next((folder / name for name in _RUNS if (folder / name).is_file()), None)
    if found is None:
        raise InputError(f"{folder}: no run file with the mined negatives; name one with input.run")
    return found


def is_beir(path: Path) -> bool:
    """Whether a folder holds what a BEIR set consists of."""
    named = is_file(path / "corpus.jsonl") and is_file(path / "queries.jsonl")
    return named and (path / "qrels").is_dir()
