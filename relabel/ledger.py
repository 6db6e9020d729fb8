"""The ledger: every reply that was ever paid for, durable before it is used. The only state of a run.

A ledger is a series of SQLite files, `ledger-0001.sqlite` and on, in the run's folder; a new one is begun when the
last has reached SEGMENT_BYTES, so that none grows beyond what is easily copied. Only the last is written to. A reply's
body is compressed with zstd, each file with a dictionary of its own once it has replies enough to learn one from.

One process writes, held by an OS lock on `ledger.lock`; any number may read.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

import orjson
import zstandard

from relabel.errors import LedgerError
from relabel.records import Call, Reply, Usage

SCHEMA = 1
SEGMENT_BYTES = 8 << 30
DICTIONARY_AFTER = 1000
"""How many replies a file holds before it learns a dictionary from them."""

_CREATE = """
CREATE TABLE reply (
    seq INTEGER PRIMARY KEY,
    key BLOB NOT NULL,           -- 16 bytes: the request's key
    context INTEGER NOT NULL,    -- who asked whom: context.id
    status TEXT NOT NULL,        -- ok | refused
    finish_reason TEXT,
    prompt INTEGER NOT NULL,     -- tokens, as the server counted them
    cached INTEGER NOT NULL,
    completion INTEGER NOT NULL,
    at REAL NOT NULL,            -- unix time
    seconds REAL NOT NULL,       -- from sending to the last byte
    dictionary INTEGER NOT NULL, -- dictionary.id, 0 for none
    body BLOB NOT NULL,          -- zstd of JSON: text, refusal, reasoning, error
    digest BLOB NOT NULL         -- 8 bytes over all of the above but seq
);
CREATE UNIQUE INDEX reply_key ON reply(key);
CREATE TABLE context (id INTEGER PRIMARY KEY, content TEXT NOT NULL UNIQUE);
CREATE TABLE dictionary (id INTEGER PRIMARY KEY, content BLOB NOT NULL);
CREATE TABLE head (id INTEGER PRIMARY KEY CHECK (id = 1), replies INTEGER NOT NULL, digest BLOB NOT NULL);
INSERT INTO head VALUES (1, 0, zeroblob(8));
"""
_INSERT = "INSERT OR IGNORE INTO reply VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_SELECT = "SELECT status, finish_reason, prompt, cached, completion, seconds, context, dictionary, body FROM reply"


@dataclass(frozen=True, slots=True)
class Entry:
    """A reply on its way into the ledger, with who asked whom."""

    call: Call
    reply: Reply
    endpoint: str


@dataclass(frozen=True, slots=True)
class Spent:
    """What one tier's replies by one model came to."""

    tier: str
    model: str
    replies: int
    refused: int
    usage: Usage


class Ledger:
    """All files of one run's ledger, and those of other runs that may answer too."""

    def __init__(self, folder: Path, read: Sequence[str | Path] = (), *, write: bool = False) -> None:
        self._folder = folder
        self._lock = _lock(folder) if write else None
        self._writer = self._open_last() if write else None
        self._own = [_Segment(path, write=False) for path in segments(folder)]
        self._others = [_Segment(path, write=False) for place in read for path in _named(Path(place))]
        self._waiting: list[tuple[Entry, asyncio.Future[None]]] = []
        self._flusher: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "ledger") if write else None

    def get(self, key: str) -> Reply | None:
        """The reply to the request with this key, if there is one."""
        raw = bytes.fromhex(key)
        for segment in (*reversed(self._own), *self._others):
            if (reply := segment.get(raw)) is not None:
                return reply
        return None

    async def append(self, entry: Entry) -> None:
        """Store a reply; returns when it is on disk. Replies that arrive together share one commit."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._waiting.append((entry, done))
        if self._flusher is None or self._flusher.done():
            self._flusher = loop.create_task(self._flush())
        await done

    async def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                await loop.run_in_executor(self._thread, self.store, [entry for entry, _ in batch])
            except Exception as fault:
                for _, done in batch:
                    if not done.done():
                        done.set_exception(fault)
            else:
                for _, done in batch:
                    if not done.done():
                        done.set_result(None)

    def store(self, entries: Sequence[Entry]) -> None:
        """Store replies in one commit. Raises LedgerError when they cannot be written."""
        if self._writer is None:
            raise LedgerError(f"{self._folder}: opened for reading only")
        if self._writer.full():
            self._writer.settle()
            self._writer.close()
            self._writer = _Segment(self._file(len(self._own) + 1), write=True)
            self._own.append(_Segment(self._writer.path, write=False))
        self._writer.store(entries)

    def _file(self, number: int) -> Path:
        return self._folder / f"ledger-{number:04d}.sqlite"

    def _open_last(self) -> _Segment:
        return _Segment((segments(self._folder) or [self._file(1)])[-1], write=True)

    def head(self) -> str:
        """A digest of all that the ledgers hold; the same replies give the same head, in whatever order they came."""
        heads = [segment.head() for segment in (*self._own, *self._others)]
        total = sum(int.from_bytes(digest) for _, digest in heads) % (1 << 64)
        return f"{sum(replies for replies, _ in heads)}:{total:016x}"

    def spent(self) -> list[Spent]:
        """What this run itself has paid for, by tier and model; other runs' ledgers do not count."""
        found: dict[tuple[str, str], Spent] = {}
        for segment in self._own:
            for one in segment.spent():
                seen = found.get((one.tier, one.model), Spent(one.tier, one.model, 0, 0, Usage()))
                usage = Usage(*(getattr(seen.usage, n) + getattr(one.usage, n) for n in Usage.__slots__))
                found[one.tier, one.model] = Spent(
                    one.tier, one.model, seen.replies + one.replies, seen.refused + one.refused, usage
                )
        return [found[name] for name in sorted(found)]

    def contexts(self) -> list[dict[str, Any]]:
        """The different circumstances under which this run's replies came to be, each once."""
        found = {content: None for segment in self._own for content in segment.contexts()}
        return [orjson.loads(content) for content in sorted(found)]

    def damaged(self) -> Iterator[str]:
        """What is wrong with the files, in words; nothing if every reply is as it was stored."""
        for segment in self._own:
            yield from segment.damaged()

    def close(self) -> None:
        """Close all files and give the lock back."""
        if self._thread is not None:
            self._thread.shutdown()
        for segment in (*self._own, *self._others):
            segment.close()
        if self._writer is not None:
            self._writer.settle()
            self._writer.close()
        if self._lock is not None:
            self._lock.truncate(0)
            self._lock.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def segments(folder: Path) -> list[Path]:
    """The files of a run's ledger, oldest first."""
    return sorted(folder.glob("ledger-*.sqlite"))


def _named(place: Path) -> list[Path]:
    found = [place] if place.is_file() else segments(place)
    if not found:
        raise LedgerError(f"{place}: no ledger there; expected a run folder, or a ledger-*.sqlite file")
    return found


class _Segment:
    """One file."""

    def __init__(self, path: Path, *, write: bool) -> None:
        self.path = path
        new = not path.exists()
        try:
            self._db = self._open(write)
            if new:
                self._db.executescript(f"BEGIN; {_CREATE} PRAGMA user_version = {SCHEMA}; COMMIT;")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            self._contexts = dict(self._db.execute("SELECT id, content FROM context").fetchall())
            learnt = self._db.execute("SELECT id, content FROM dictionary ORDER BY id").fetchall()
        except sqlite3.DatabaseError as fault:
            raise LedgerError(f"{path}: not a sound ledger ({fault}). Move it away, or restore a copy.") from None
        if version > SCHEMA:
            raise LedgerError(f"{path}: of version {version}, this relabel reads up to {SCHEMA}. Upgrade relabel.")
        self._names = {content: identity for identity, content in self._contexts.items()}
        self._readers: dict[int, zstandard.ZstdDecompressor] = {0: zstandard.ZstdDecompressor()}
        self._dictionary, self._compressor = 0, zstandard.ZstdCompressor(level=6)
        for identity, content in learnt:
            self._use(identity, content)
        self._replies, digest = self.head()
        self._digest = int.from_bytes(digest)
        self._learns_at = 0 if self._dictionary else max(DICTIONARY_AFTER, self._replies + 1)

    def _open(self, write: bool) -> sqlite3.Connection:
        """Readers and the writer have connections of their own, so that nothing is read before it is committed."""
        if write:
            db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
            db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-16384;")
            return db
        address = f"{self.path.absolute().as_uri()}?mode=ro"
        try:
            db = sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False)
            db.execute("SELECT 1 FROM head")
        except sqlite3.OperationalError:  # a read-only disk has no room for SQLite's own notes
            db = sqlite3.connect(address + "&immutable=1", uri=True, isolation_level=None, check_same_thread=False)
        return db

    def _use(self, identity: int, content: bytes) -> None:
        dictionary = zstandard.ZstdCompressionDict(content)
        self._readers[identity] = zstandard.ZstdDecompressor(dict_data=dictionary)
        self._dictionary, self._compressor = identity, zstandard.ZstdCompressor(level=6, dict_data=dictionary)

    def get(self, key: bytes) -> Reply | None:
        row = self._db.execute(_SELECT + " WHERE key = ?", (key,)).fetchone()
        return None if row is None else self._reply(row)

    def _reply(self, row: tuple[Any, ...]) -> Reply:
        status, finish_reason, prompt, cached, completion, seconds, context, dictionary, packed = row
        body = orjson.loads(self._unpack(dictionary, packed))
        circumstances = self._context(context)
        return Reply(
            status,
            body["text"],
            finish_reason,
            body.get("refusal"),
            body.get("reasoning"),
            body.get("error"),
            circumstances["served_model"],
            circumstances["fingerprint"],
            circumstances["dialect"],
            Usage(prompt, cached, completion),
            seconds,
        )

    def _context(self, identity: int) -> dict[str, Any]:
        if identity not in self._contexts:
            self._contexts = dict(self._db.execute("SELECT id, content FROM context").fetchall())
        found = self._contexts[identity]
        if isinstance(found, str):
            found = self._contexts[identity] = orjson.loads(found)
        return found  # type: ignore[no-any-return]

    def _unpack(self, dictionary: int, packed: bytes) -> bytes:
        if dictionary not in self._readers:
            (content,) = self._db.execute("SELECT content FROM dictionary WHERE id = ?", (dictionary,)).fetchone()
            self._readers[dictionary] = zstandard.ZstdDecompressor(dict_data=zstandard.ZstdCompressionDict(content))
        return self._readers[dictionary].decompress(packed)

    def store(self, entries: Sequence[Entry]) -> None:
        db = self._db
        try:
            db.execute("BEGIN IMMEDIATE")
            replies, digest = self._replies, self._digest
            for entry in entries:
                row = self._row(entry)
                if db.execute(_INSERT, row).rowcount:
                    replies, digest = replies + 1, digest + int.from_bytes(row[-1])
            db.execute("UPDATE head SET replies = ?, digest = ?", (replies, (digest % (1 << 64)).to_bytes(8)))
            db.execute("COMMIT")
        except sqlite3.Error as fault:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise LedgerError(f"{self.path}: cannot be written: {fault}. What it held before is safe.") from None
        self._replies, self._digest = replies, digest % (1 << 64)
        if self._learns_at and replies >= self._learns_at:
            self._learn()

    def _row(self, entry: Entry) -> tuple[Any, ...]:
        reply, call = entry.reply, entry.call
        body = {"text": reply.text, "refusal": reply.refusal, "reasoning": reply.reasoning, "error": reply.error}
        packed = self._compressor.compress(
            orjson.dumps({name: value for name, value in body.items() if value is not None})
        )
        usage = reply.usage
        row = (
            bytes.fromhex(call.request.key),
            self._context_id(entry),
            reply.status,
            reply.finish_reason,
            *(usage.prompt, usage.cached, usage.completion),
            time.time(),
            reply.seconds,
            self._dictionary,
            packed,
        )
        return (*row, _digest(row))

    def _context_id(self, entry: Entry) -> int:
        call, reply = entry.call, entry.reply
        content = orjson.dumps(
            {
                "tier": call.tier,
                "client": call.client,
                "endpoint": entry.endpoint,
                "prompt": call.prompt,
                "model": call.request.model,
                "model_revision": call.request.model_revision,
                "served_model": reply.model,
                "fingerprint": reply.fingerprint,
                "dialect": reply.dialect,
            }
        ).decode()
        if content not in self._names:
            identity = len(self._names) + 1
            self._db.execute("INSERT INTO context VALUES (?, ?)", (identity, content))
            self._names[content] = identity
        return int(self._names[content])

    def _learn(self) -> None:
        """Train a dictionary on pieces of the replies so far; what is stored stays as it is."""
        self._learns_at = 0
        rows = self._db.execute("SELECT dictionary, body FROM reply ORDER BY seq LIMIT ?", (DICTIONARY_AFTER,))
        bodies = [self._unpack(*row) for row in rows.fetchall()]
        pieces: list[Any] = [body[at : at + 512] for body in bodies for at in range(0, len(body), 512)]
        try:
            content = zstandard.train_dictionary(16_384, pieces).as_bytes()
        except zstandard.ZstdError:
            return
        identity = self._dictionary + 1
        self._db.execute("INSERT INTO dictionary VALUES (?, ?)", (identity, content))
        self._use(identity, content)

    def full(self) -> bool:
        return self.path.stat().st_size >= SEGMENT_BYTES

    def head(self) -> tuple[int, bytes]:
        replies, digest = self._db.execute("SELECT replies, digest FROM head").fetchone()
        return int(replies), bytes(digest)

    def contexts(self) -> list[str]:
        return [content for (content,) in self._db.execute("SELECT content FROM context")]

    def spent(self) -> Iterator[Spent]:
        rows = self._db.execute(
            "SELECT content, count(*), sum(status = 'refused'), sum(prompt), sum(cached), sum(completion) "
            "FROM reply JOIN context ON context.id = reply.context GROUP BY context"
        )
        for content, replies, refused, *tokens in rows:
            context = orjson.loads(content)
            yield Spent(context["tier"], context["model"], replies, refused, Usage(*tokens))

    def damaged(self) -> Iterator[str]:
        replies, total = 0, 0
        columns = "key, context, status, finish_reason, prompt, cached, completion, at, seconds, dictionary, body"
        try:
            for *row, digest in self._db.execute(f"SELECT {columns}, digest FROM reply"):
                replies, total = replies + 1, total + int.from_bytes(digest)
                if _digest(tuple(row)) != digest:
                    yield f"{self.path.name}: the reply with key {row[0].hex()} is not what was stored"
            if (replies, (total % (1 << 64)).to_bytes(8)) != self.head():
                yield f"{self.path.name}: holds {replies} replies, its head says {self.head()[0]}"
        except sqlite3.DatabaseError as fault:
            yield f"{self.path.name}: {fault}"

    def settle(self) -> None:
        """Fold SQLite's log into the file, so that a ledger at rest is one file and reading it leaves no trace."""
        with suppress(sqlite3.OperationalError):  # somebody is reading: the log stays, nothing is lost
            self._db.execute("PRAGMA journal_mode=DELETE")

    def close(self) -> None:
        self._db.close()


def _digest(row: tuple[Any, ...]) -> bytes:
    digest = blake2b(digest_size=8)
    for value in row:
        raw = value if isinstance(value, bytes) else repr(value).encode()
        digest.update(len(raw).to_bytes(4))
        digest.update(raw)
    return digest.digest()


def _lock(folder: Path) -> IO[str]:
    """Hold `ledger.lock`, or say who does. The system lets go of it when the process ends, however it ends."""
    import fcntl

    path = folder / "ledger.lock"
    try:
        file = path.open("a+", encoding="utf-8")
    except OSError as fault:
        raise LedgerError(f"{path}: {fault.strerror}. Check that the run folder can be written.") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise LedgerError(f"{folder}: {holder} is writing this run. Wait for it, or use another --output.") from None
    file.seek(0)
    file.truncate()
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file
