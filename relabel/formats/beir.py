"""BEIR: a folder with `corpus.jsonl`, `queries.jsonl`, `qrels/SPLIT.tsv`, and a TREC run file with the mined negatives.

A query's positives are its passages with a relevance above 0; its candidates are the run's other passages, in the
order of the run. The cleaned set is such a folder again: relabelled candidates stand in the qrels, and the run holds
the negatives that stay.

Look-ups go through a temporary index on disk, so memory does not grow with the corpus.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from relabel.errors import InputError
from relabel.formats.base import RecordError, check_positives, optional_text, want_id, want_text
from relabel.formats.storage import _file_identity
from relabel.records import Instance, Outcome, Passage, Quarantined

_RUNS = ("run.trec", "run.tsv", "run.txt", "negatives.trec")


class Beir:
    """A BEIR folder as a source of instances, one for each query of the qrels or the run, in the order they appear."""

    format_name = "beir"
    suffix = ".beir"
    needs_negatives = False

    def __init__(self, folder: Path, split: str | None, run: str | None, subset: str) -> None:
        self.folder = folder
        self.split = split or _only_split(folder)
        self.run = _run_file(folder, run)
        self.subset = subset or folder.name
        self._fraction = 0.0

    @property
    def _qrels(self) -> Path:
        return self.folder / "qrels" / f"{self.split}.tsv"

    def _files(self) -> list[Path]:
        return [self.folder / "corpus.jsonl", self.folder / "queries.jsonl", self._qrels, self.run]

    def identity(self) -> tuple[int, str]:
        """Of the four files."""
        return _file_identity(self._files())

    def fraction(self) -> float | None:
        """By queries."""
        return self._fraction

    def __iter__(self) -> Iterator[Instance | Quarantined]:
        """Queries in the order of the qrels, then those that only the run knows."""
        with tempfile.TemporaryDirectory(prefix="relabel-beir-") as scratch:
            index = _Index(Path(scratch) / "index.sqlite", *self._files())
            for fault in index.faults:
                yield fault
            total = max(index.count("asked"), 1)
            for number, (query_id, line) in enumerate(index.queries(), 1):
                self._fraction = number / total
                try:
                    yield self._instance(index, query_id, line)
                except RecordError as fault:
                    yield Quarantined(line, str(fault), {"query_id": query_id})
            index.close()

    def _instance(self, index: _Index, query_id: str, line: int) -> Instance:
        query = index.record("query", query_id)
        if query is None:
            raise RecordError(f"query {query_id!r} is not in queries.jsonl")
        judged = index.judged(query_id)
        positives = tuple(_passage(index, docid) for docid, relevance in judged if relevance > 0)
        check_positives(positives)
        relevant = {passage.docid for passage in positives}
        mined = index.mined(query_id)
        negatives = tuple(_passage(index, docid, score) for docid, score, _ in mined if docid not in relevant)
        origin = [raw for docid, _, raw in mined if docid not in relevant]
        lines = index.qrels_lines(query_id)
        return Instance(line, query_id, want_text(query, "text"), positives, negatives, self.subset, (lines, origin))

    def sink(self, path: Path) -> BeirSink:
        """A BEIR folder at `path`."""
        return BeirSink(path, self)


class BeirSink:
    """Writes qrels and run anew; queries and corpus are copied as they are."""

    def __init__(self, path: Path, source: Beir) -> None:
        (path / "qrels").mkdir(parents=True)
        for name in ("corpus.jsonl", "queries.jsonl"):
            shutil.copyfile(source.folder / name, path / name)
        self._qrels = (path / "qrels" / f"{source.split}.tsv").open("w", encoding="utf-8")
        self._run = (path / "run.trec").open("w", encoding="utf-8")
        self._qrels.write("query-id\tcorpus-id\tscore\n")

    def write(self, outcome: Outcome) -> None:
        """The query's lines, unless the instance is removed."""
        if outcome.action == "remove":
            return
        instance = outcome.instance
        judged, mined = instance.origin
        self._qrels.writelines(judged)
        for place, decision in enumerate(outcome.decisions):
            if decision.action == "keep":
                self._run.write(mined[place])
            elif decision.action == "relabel":
                self._qrels.write(f"{instance.query_id}\t{instance.negatives[place].docid}\t1\n")

    def close(self) -> None:
        """Flush both files."""
        self._qrels.close()
        self._run.close()


class _Index:
    """Offsets of queries and passages, and the lines of qrels and run, by query."""

    def __init__(self, at: Path, corpus: Path, queries: Path, qrels: Path, run: Path) -> None:
        self.faults: list[Quarantined] = []
        self._files = {"passage": corpus.open("rb"), "query": queries.open("rb")}
        self._db = sqlite3.connect(at, isolation_level=None, check_same_thread=False)
        self._db.executescript(
            """PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; BEGIN;
            CREATE TABLE place (kind TEXT, id TEXT, offset INTEGER, PRIMARY KEY (kind, id)) WITHOUT ROWID;
            CREATE TABLE judged (query_id TEXT, docid TEXT, relevance INTEGER, raw TEXT);
            CREATE TABLE mined (query_id TEXT, docid TEXT, score REAL, raw TEXT);
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
            try:
                identity = want_id(orjson.loads(raw).get("_id"), "_id")
            except (orjson.JSONDecodeError, AttributeError, RecordError) as fault:
                self.faults.append(Quarantined(number, f"{name}: {fault}", raw.decode(errors="backslashreplace")))
                continue
            offset = file.tell() - len(raw)
            self._db.execute("INSERT OR IGNORE INTO place VALUES (?, ?, ?)", (kind, identity, offset))

    def _read_qrels(self, path: Path) -> None:
        for number, line in _lines(path):
            fields = line.split("\t") if "\t" in line else line.split()
            if number == 1 and fields[-1].strip() == "score":
                continue
            try:
                query_id, docid, relevance = (*fields, "1")[:3] if len(fields) == 2 else (fields[0], *fields[-2:])
                self._insert("judged", number, query_id, docid, int(relevance), line)
            except ValueError:
                self._refuse(number, f"{path.name}: expected query-id, corpus-id and score", line)

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

    def _refuse(self, number: int, reason: str, line: str) -> None:
        shown = line.encode(errors="surrogateescape").decode(errors="backslashreplace")
        self.faults.append(Quarantined(number, reason, shown.rstrip("\r\n")))

    def count(self, table: str) -> int:
        """Rows of a table."""
        return int(self._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    def queries(self) -> Iterator[tuple[str, int]]:
        """(query_id, line) in the order of first appearance."""
        yield from self._db.execute("SELECT query_id, line FROM asked ORDER BY rowid")

    def judged(self, query_id: str) -> list[tuple[str, int]]:
        """(docid, relevance) of a query's qrels."""
        return self._db.execute(
            "SELECT docid, relevance FROM judged WHERE query_id = ? ORDER BY rowid", (query_id,)
        ).fetchall()

    def qrels_lines(self, query_id: str) -> list[str]:
        """A query's qrels, as they stand."""
        found = self._db.execute("SELECT raw FROM judged WHERE query_id = ? ORDER BY rowid", (query_id,))
        return [raw for (raw,) in found]

    def mined(self, query_id: str) -> list[tuple[str, float, str]]:
        """(docid, score, line) of a query's run."""
        return self._db.execute(
            "SELECT docid, score, raw FROM mined WHERE query_id = ? ORDER BY rowid", (query_id,)
        ).fetchall()

    def record(self, kind: str, identity: str) -> dict[str, Any] | None:
        """A query or a passage as it stands in its file."""
        found = self._db.execute("SELECT offset FROM place WHERE kind = ? AND id = ?", (kind, identity)).fetchone()
        if found is None:
            return None
        file = self._files[kind]
        file.seek(found[0], os.SEEK_SET)
        return dict(orjson.loads(file.readline()))

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
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line


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
        path = Path(run) if Path(run).exists() else folder / run
        if path.is_file():
            return path
        raise InputError(f"{run}: no such run file; input.run names a TREC run (query-id Q0 corpus-id rank score tag)")
    found = next((folder / name for name in _RUNS if (folder / name).is_file()), None)
    if found is None:
        raise InputError(f"{folder}: no run file with the mined negatives; name one with input.run")
    return found


def is_beir(path: Path) -> bool:
    """Whether a folder holds what a BEIR set consists of."""
    return (path / "corpus.jsonl").is_file() and (path / "queries.jsonl").is_file() and (path / "qrels").is_dir()
