"""What a batch client must not forget: the calls that were put off, and which batch each of them is in.

One SQLite file in the run's folder, of which nothing is left once every reply is in the ledger. Calls come and go in
*parts*, each a file of requests. A part that nobody has been told of yet is forgotten with the process that made it.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import zstandard

from relabel.errors import LedgerError
from relabel.records import Call, Request
from relabel.schema import UNREADABLE, is_damage

SPOOL = "batches.sqlite"
_VERSION = 1
_AT_ONCE = 500
"""So many calls are written in one transaction, and read at a time."""

_TABLES = """
CREATE TABLE part (
    id INTEGER PRIMARY KEY AUTOINCREMENT,   -- never given again: files are named after it
    client TEXT NOT NULL,
    name TEXT NOT NULL,          -- as the batch's metadata say it
    model TEXT NOT NULL,
    dialect TEXT NOT NULL,       -- in which its requests are put
    requests INTEGER NOT NULL,
    file TEXT,                   -- the uploaded file's id, from just before the batch is created
    batch TEXT,                  -- the batch's id
    told INTEGER NOT NULL        -- whether somebody outside knows of it
);
CREATE TABLE call (
    seq INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    client TEXT NOT NULL,
    model TEXT NOT NULL,
    tier TEXT NOT NULL,
    prompt TEXT NOT NULL,
    request BLOB NOT NULL,       -- zstd of JSON: the logical request
    wanted INTEGER NOT NULL,     -- whether this pass over the source has put it off
    part INTEGER,                -- part.id
    taken INTEGER NOT NULL DEFAULT 0,   -- whether its reply is in the ledger
    failed INTEGER,              -- null: no word yet; else 1 if it counts that there is none
    tries INTEGER NOT NULL DEFAULT 0,   -- batches that it came out of without a reply
    said TEXT NOT NULL DEFAULT ''       -- in which words
);
CREATE INDEX call_part ON call(part);
CREATE INDEX call_pending ON call(client, model, seq) WHERE part IS NULL;
"""
_PUT = (
    "INSERT INTO call (key, client, model, tier, prompt, request, wanted) VALUES (?, ?, ?, ?, ?, ?, 1) "
    "ON CONFLICT (key) DO UPDATE SET wanted = 1"
)
_CALL = "SELECT seq, key, client, tier, prompt, request FROM call "


@dataclass(frozen=True, slots=True)
class Part:
    """Requests of one model in one file; `batch` is the id of the batch that they are in, once that is known."""

    id: int
    name: str
    model: str
    dialect: str
    requests: int
    file: str | None = None
    batch: str | None = None


def under_way(folder: Path, *, written: bool | None = None) -> tuple[int, int]:
    """How many parts of a run are not taken in yet, and how many requests are in them: of all, of the files that are
    `written` for others, or of the submitted batches. Raises LedgerError.
    """
    if not (folder / SPOOL).exists():
        return 0, 0
    spool = Spool(folder, "")
    try:
        return spool.told(written)
    finally:
        spool.close()


class Spool:
    """The calls and parts of one client. Every change is one transaction."""

    def __init__(self, folder: Path, client: str) -> None:
        """Raises LedgerError where the file cannot be read."""
        self.path = folder / SPOOL
        self._client = client
        self._waiting: list[tuple[Any, ...]] = []
        with self._using():
            if self.path.exists() and not self.path.stat().st_size:
                raise ValueError("it is empty")  # SQLite would take it for new
            self._db = sqlite3.connect(self.path, isolation_level=None, timeout=30)
            try:
                self._open()
            except BaseException:
                self._db.close()
                raise

    def _open(self) -> None:
        self._db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > _VERSION:
            raise LedgerError(
                f"{self.path}: of version {version}, this relabel reads up to {_VERSION}. Upgrade relabel."
            )
        if not version:
            self._db.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {_VERSION}; COMMIT;")

    @contextmanager
    def _using(self) -> Iterator[None]:
        """One transaction, if anything is written; SQLite's errors in our words."""
        try:
            yield
        except UNREADABLE as fault:
            with suppress(AttributeError, sqlite3.Error):
                self._db.execute("ROLLBACK")
            advice = (
                "Restore a copy of it; without one, delete it: what is in batches under way is then paid again"
                if is_damage(fault)
                else "What it held before is safe"
            )
            raise LedgerError(f"{self.path}: cannot be used: {fault}. {advice}.") from None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._using():
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")

    def begin(self) -> None:
        """Forget what an earlier process has told nobody of; what is still wanted will be put off again."""
        with self._writing():
            for step in (
                "UPDATE call SET part = NULL WHERE part IN (SELECT id FROM part WHERE client = ? AND NOT told)",
                "DELETE FROM part WHERE client = ? AND NOT told",
                "DELETE FROM call WHERE client = ? AND part IS NULL AND tries = 0",
                "UPDATE call SET wanted = 0 WHERE client = ?",
            ):
                self._db.execute(step, (self._client,))

    def put(self, call: Call) -> None:
        """Keep a call until it has its reply; one whose key is there already is only noted as wanted."""
        request = call.request
        logical = {name: getattr(request, name) for name in Request.__dataclass_fields__}
        packed = zstandard.compress(orjson.dumps(logical), 1)
        self._waiting.append((request.key, call.client, request.model, call.tier, call.prompt, packed))
        if len(self._waiting) >= _AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Write down what has been put and not been written yet."""
        rows, self._waiting = self._waiting, []
        if rows:
            with self._writing():
                self._db.executemany(_PUT, rows)

    def pending(self, most_tries: int) -> Iterator[Call]:
        """The calls that are wanted and in no part, model by model, but for those that were tried too often."""
        where = "WHERE client = ? AND part IS NULL AND wanted AND tries < ? AND model = ? AND seq > ? ORDER BY seq"
        with self._using():
            found = self._db.execute(
                "SELECT DISTINCT model FROM call WHERE client = ? AND part IS NULL", (self._client,)
            )
            models = sorted(model for (model,) in found)
        for model in models:
            yield from self._calls(where, self._client, most_tries, model)

    def calls(self, part: Part) -> Iterator[Call]:
        """The calls of a part that still have no reply, nor any word that there is none."""
        return self._calls("WHERE part = ? AND NOT taken AND failed IS NULL AND seq > ? ORDER BY seq", part.id)

    def keys(self, part: Part) -> Iterator[str]:
        """The keys of all calls of a part."""
        with self._using():
            yield from (key for (key,) in self._db.execute("SELECT key FROM call WHERE part = ?", (part.id,)))

    def _calls(self, where: str, *values: Any) -> Iterator[Call]:
        last = 0
        while True:
            with self._using():
                rows = self._db.execute(f"{_CALL} {where} LIMIT {_AT_ONCE}", (*values, last)).fetchall()
                calls = [self._call(row) for row in rows]
            yield from calls
            if not rows:
                return
            last = rows[-1][0]

    def named(self, part: Part, keys: Collection[str]) -> dict[str, Call | None]:
        """Those of these keys that are of this part, with their calls; None for those that have been seen to."""
        with self._using():
            marks = ", ".join("?" * len(keys))
            rows = self._db.execute(
                f"SELECT seq, key, client, tier, prompt, request, taken OR failed IS NOT NULL FROM call "
                f"WHERE part = ? AND key IN ({marks})",
                (part.id, *keys),
            ).fetchall()
            return {row[1]: None if row[-1] else self._call(row[:-1]) for row in rows}

    def _call(self, row: tuple[Any, ...]) -> Call:
        _, key, client, tier, prompt, packed = row
        request = Request(**orjson.loads(zstandard.decompress(packed)))
        if request.key != key:
            raise ValueError(f"the request with key {key} is not what was stored")
        return Call(request, tier, client, prompt)

    def parts(self) -> list[Part]:
        """All parts of this client, oldest first."""
        query = "SELECT id, name, model, dialect, requests, file, batch FROM part WHERE client = ? ORDER BY id"
        with self._using():
            return [Part(*row) for row in self._db.execute(query, (self._client,))]

    def told(self, written: bool | None = None) -> tuple[int, int]:
        """How many parts of all clients somebody knows of, and how many calls in them have no reply yet."""
        which = {None: "", True: " AND file IS NULL", False: " AND file IS NOT NULL"}[written]
        with self._using():
            (parts,) = self._db.execute(f"SELECT count(*) FROM part WHERE told{which}").fetchone()
            query = f"SELECT count(*) FROM call JOIN part ON part = part.id WHERE told AND NOT taken{which}"
            return int(parts), int(self._db.execute(query).fetchone()[0])

    def numbers(self) -> set[int]:
        """The numbers of all parts, of whichever client."""
        with self._using():
            return {number for (number,) in self._db.execute("SELECT id FROM part")}

    def last(self) -> int:
        """The greatest number that any part has ever had."""
        with self._using():
            return int(self._db.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence").fetchone()[0])

    def add(self, number: int, model: str, dialect: str, keys: Collection[str], *, told: bool) -> Part:
        """Make a part of these calls, under a name that no other has anywhere."""
        part = Part(number, uuid.uuid4().hex, model, dialect, len(keys))
        with self._writing():
            row = (part.id, self._client, part.name, model, dialect, part.requests, told)
            self._db.execute("INSERT INTO part VALUES (?, ?, ?, ?, ?, ?, NULL, NULL, ?)", row)
            update = "UPDATE call SET part = ?, taken = 0, failed = NULL WHERE key = ?"
            self._db.executemany(update, ((part.id, key) for key in keys))
        return part

    def tell(self, part: Part, **known: str) -> Part:
        """Note the id of a part's uploaded `file`, just before its batch is created, and then that of the `batch`."""
        with self._writing():
            for column, value in known.items():
                self._db.execute(f"UPDATE part SET {column} = ?, told = 1 WHERE id = ?", (value, part.id))
        return self._part(part.id)

    def take(self, keys: Iterable[str], failed: Mapping[str, tuple[bool, str]]) -> None:
        """Note whose replies are in the ledger, and who got none: whether that counts, and in which words."""
        with self._writing():
            self._db.executemany("UPDATE call SET taken = 1 WHERE key = ?", ((key,) for key in keys))
            rows = ((counts, said, key) for key, (counts, said) in failed.items())
            self._db.executemany("UPDATE call SET failed = ?, said = ? WHERE key = ?", rows)

    def take_back(self, part: Part) -> Part:
        """A part whose batch was never begun is as new, under another name."""
        with self._writing():
            row = (uuid.uuid4().hex, part.id)
            self._db.execute("UPDATE part SET name = ?, file = NULL, batch = NULL, told = 0 WHERE id = ?", row)
        return self._part(part.id)

    def _part(self, number: int) -> Part:
        return next(one for one in self.parts() if one.id == number)

    def wanted(self, part: Part) -> bool:
        """Whether anybody still waits for a reply to one of its calls."""
        with self._using():
            query = "SELECT EXISTS (SELECT 1 FROM call WHERE part = ? AND wanted AND NOT taken)"
            return bool(self._db.execute(query, (part.id,)).fetchone()[0])

    def finish(self, part: Part) -> None:
        """Forget a part and all of its calls that have their replies; the others are in no part again."""
        with self._writing():
            self._db.execute("DELETE FROM call WHERE part = ? AND taken", (part.id,))
            self._db.execute(
                "UPDATE call SET part = NULL, wanted = 0, tries = tries + coalesce(failed, 0), failed = NULL "
                "WHERE part = ?",
                (part.id,),
            )
            self._db.execute("DELETE FROM part WHERE id = ?", (part.id,))

    def given_up(self, most_tries: int) -> tuple[int, str]:
        """How many calls that are wanted have been tried too often, and what was said last. They are forgotten."""
        where = "WHERE client = ? AND part IS NULL AND wanted AND tries >= ?"
        with self._writing():
            query = f"SELECT count(*), max(said) FROM call {where}"
            count, said = self._db.execute(query, (self._client, most_tries)).fetchone()
            self._db.execute(f"DELETE FROM call {where}", (self._client, most_tries))
        return int(count), said or ""

    def rest(self) -> None:
        """A pass is over: what is in no part is wanted only if the next pass puts it off."""
        with self._writing():
            self._db.execute("UPDATE call SET wanted = 0 WHERE client = ? AND part IS NULL", (self._client,))

    def is_empty(self) -> bool:
        """Whether nothing in it, of any client, must be known to another process."""
        with self._using():
            query = "SELECT EXISTS (SELECT 1 FROM part WHERE told) OR EXISTS (SELECT 1 FROM call WHERE tries)"
            return not self._db.execute(query).fetchone()[0]

    def close(self) -> None:
        """Close the file."""
        self._db.close()
