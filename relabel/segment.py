"""One file of a ledger: its tables, how a reply lies in them, and how damage shows."""

from __future__ import annotations

import operator
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any
from zlib import crc32

import orjson
import zstandard

from relabel.errors import Damaged, LedgerError
from relabel.records import Call, Reply, Token, Usage
from relabel.schema import CORRUPT, SCHEMA, SUMS, UNREADABLE, bring_up, create, is_damage, roll_back

_LEVEL = 3
SEGMENT_BYTES = 8 << 30
DICTIONARY_AFTER = 1000
"""How many replies a file holds before it learns a dictionary from them."""

_INSERT = "INSERT INTO reply VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING"
_SELECT = (
    "SELECT status, finish_reason, prompt, cached, completion, seconds, context, dictionary, body, at, digest "
    "FROM reply"
)
_ALL = (
    "SELECT key, content, at, dictionary, body, digest, status, finish_reason, prompt, cached, completion, seconds "
    "FROM reply LEFT JOIN context ON context.id = reply.context"
)
_LARGEST = 1 << 30
"""More bytes than any reply has."""


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


@dataclass(frozen=True, slots=True)
class Stored:
    """A reply as it lies in a file."""

    key: bytes
    content: str
    """Its circumstances, as JSON."""
    said: tuple[Any, ...]
    """Status, finish reason, prompt, cached and completion tokens, seconds."""
    at: float
    packed: bytes
    digest: bytes

    def is_sound(self, unpack: Callable[[bytes], bytes]) -> bool:
        """Whether it is, bit by bit, what was stored."""
        try:
            if _checksum(self.at, self.packed) != self.digest[8:]:  # first, so that nothing damaged is unpacked
                return False
            body = unpack(self.packed)
            return _digest(self.key, self.content, self.said, body) == self.digest[:8]
        except UNREADABLE:
            return False


def migrate(path: Path) -> None:
    """Bring a file that an older relabel wrote up to this one's schema, in one transaction."""
    with closing(Segment(path, write=False)) as segment:
        current = segment.version == SCHEMA
    if not current:
        Segment(path, write=True).close()


class Segment:
    """One file, either read or written to."""

    def __init__(self, path: Path, *, write: bool) -> None:
        self.path = path
        db: sqlite3.Connection | None = None
        try:
            db = self._db = _connect(path, write)
            (self.version,) = db.execute("PRAGMA user_version").fetchone()
            if self.version > SCHEMA:
                raise LedgerError(
                    f"{path}: of version {self.version}, this relabel reads up to {SCHEMA}. Upgrade relabel."
                )
            if self.version < 1:
                raise ValueError("it has no tables")
            if write:
                db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-16384;")
                if self.version < SCHEMA:
                    bring_up(db, self.version)
            self._load()
        except (*UNREADABLE, OSError, LedgerError) as fault:
            if db is not None:
                db.close()
            if isinstance(fault, LedgerError):
                raise
            raise self._failed("not a sound ledger", fault) from None

    def _load(self) -> None:
        """Take up what the file has come to."""
        self._contexts: dict[int, Any] = dict(self._db.execute("SELECT id, content FROM context").fetchall())
        self._names = {content: identity for identity, content in self._contexts.items()}
        self._readers: dict[int, zstandard.ZstdDecompressor] = {0: zstandard.ZstdDecompressor()}
        self._dictionaries = {b"": 0}
        self._dictionary, self._compressor = 0, zstandard.ZstdCompressor(level=_LEVEL)
        for identity, content in self._db.execute("SELECT id, content FROM dictionary ORDER BY id").fetchall():
            self._use(identity, content)
        self._replies, digest = self.head()
        self._digest = int.from_bytes(digest)
        self._learns_at = 0 if self._dictionary else max(DICTIONARY_AFTER, self._replies + 1)

    def _use(self, identity: int, content: bytes) -> None:
        dictionary = zstandard.ZstdCompressionDict(content)
        self._readers[identity] = zstandard.ZstdDecompressor(dict_data=dictionary)
        self._dictionaries[content] = identity
        self._dictionary, self._compressor = identity, zstandard.ZstdCompressor(level=_LEVEL, dict_data=dictionary)

    def get(self, key: bytes) -> Reply | None:
        """The committed reply with this key."""
        try:
            row = self._db.execute(_SELECT + " WHERE key = ?", (key,)).fetchone()
            return None if row is None else self._reply(row)
        except UNREADABLE as fault:
            raise self._failed(f"the reply with key {key.hex()} cannot be read", fault) from None

    def _failed(self, found: str, fault: Exception) -> LedgerError:
        if is_damage(fault):
            return Damaged(self.path, f"{found} ({fault})")
        return LedgerError(
            f"{self.path}: cannot be used: {fault}. What it holds is safe; look to the disk and its rights."
        )

    def _reply(self, row: tuple[Any, ...]) -> Reply:
        status, finish_reason, prompt, cached, completion, seconds, context, dictionary, packed, at, digest = row
        if _checksum(at, packed) != digest[8:]:
            raise ValueError("its checksum is wrong")
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
            _tokens(body.get("logprobs")),
            circumstances.get("engine", ""),
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
        return unpack(self._readers[dictionary], packed)

    def store(self, entries: Sequence[Entry]) -> None:
        """Store replies in one commit; one whose key is there already is left out. Raises LedgerError."""
        with self._writing():
            self._commit(map(self._row, entries))
            if self._learns_at and self._replies >= self._learns_at:
                self._learn()

    def adopt(self, replies: Iterable[tuple[Stored, bytes]]) -> None:
        """Store in one commit what lay in another file, each with its dictionary's content, as it lay there."""
        with self._writing():
            self._commit(map(self._adopted, replies))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as fault:
            self._undo()
            if not isinstance(fault, sqlite3.Error):
                raise
            if getattr(fault, "sqlite_errorcode", 0) & 0xFF in CORRUPT:
                raise Damaged(self.path, f"cannot be written ({fault})") from None
            raise LedgerError(f"{self.path}: cannot be written: {fault}. What it held before is safe.") from None

    def _commit(self, rows: Iterable[tuple[Any, ...]]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        replies, digest = self._replies, self._digest
        for row in rows:
            if self._db.execute(_INSERT, row).rowcount:
                replies, digest = replies + 1, (digest + int.from_bytes(row[-1][:8])) % (1 << 64)
        self._db.execute("UPDATE head SET replies = ?, digest = ?", (replies, digest.to_bytes(8)))
        self._db.execute("COMMIT")
        self._replies, self._digest = replies, digest

    def _undo(self) -> None:
        """Forget what has not been committed."""
        with suppress(*UNREADABLE):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self._load()

    def _adopted(self, reply: tuple[Stored, bytes]) -> tuple[Any, ...]:
        one, dictionary = reply
        if dictionary not in self._dictionaries:
            self._add(dictionary)
        context, said, under = self._context_id(one.content), one.said, self._dictionaries[dictionary]
        return (one.key, context, *said[:-1], one.at, said[-1], under, one.packed, one.digest)

    def _row(self, entry: Entry) -> tuple[Any, ...]:
        reply, usage, key = entry.reply, entry.reply.usage, bytes.fromhex(entry.call.request.key)
        texts = {name: getattr(reply, name) for name in ("text", "refusal", "reasoning", "error", "logprobs")}
        body = orjson.dumps({name: value for name, value in texts.items() if value is not None}, default=tuple)
        said = (reply.status, reply.finish_reason, usage.prompt, usage.cached, usage.completion, float(reply.seconds))
        content, at, packed = _circumstances(entry), time.time(), self._compressor.compress(body)
        digest = _digest(key, content, said, body) + _checksum(at, packed)
        return (key, self._context_id(content), *said[:-1], at, said[-1], self._dictionary, packed, digest)

    def _context_id(self, content: str) -> int:
        if content not in self._names:
            identity = len(self._names) + 1
            self._db.execute("INSERT INTO context VALUES (?, ?)", (identity, content))
            self._names[content] = identity
        return int(self._names[content])

    def _learn(self) -> None:
        """Train a dictionary on pieces of the replies so far; what is stored stays as it is."""
        self._learns_at = 0
        rows = self._db.execute("SELECT dictionary, body FROM reply ORDER BY seq LIMIT ?", (DICTIONARY_AFTER,))
        try:
            bodies = [self._unpack(*row) for row in rows.fetchall()]
            pieces: list[Any] = [body[at : at + 512] for body in bodies for at in range(0, len(body), 512)]
            content = zstandard.train_dictionary(16_384, pieces).as_bytes()
        except zstandard.ZstdError:
            return
        self._add(content)

    def _add(self, dictionary: bytes) -> None:
        self._db.execute("INSERT INTO dictionary VALUES (?, ?)", (self._dictionary + 1, dictionary))
        self._use(self._dictionary + 1, dictionary)

    def full(self) -> bool:
        """Whether it is time to begin another file."""
        return self.path.stat().st_size >= SEGMENT_BYTES

    def head(self) -> tuple[int, bytes]:
        """How many replies it holds, and the sum of their digests."""
        try:
            return self._head()
        except UNREADABLE as fault:
            raise self._failed("its head cannot be read", fault) from None

    def _head(self) -> tuple[int, bytes]:
        replies, digest = self._db.execute("SELECT replies, digest FROM head").fetchone()
        return int(replies), bytes(digest)

    def contexts(self) -> list[str]:
        """The circumstances of its replies, each once, as JSON."""
        try:
            return [content for (content,) in self._db.execute("SELECT content FROM context")]
        except UNREADABLE as fault:
            raise self._failed("its contexts cannot be read", fault) from None

    def spent(self) -> list[Spent]:
        """What its replies came to."""
        try:
            sums = "SELECT * FROM spent" if self.version > 1 else SUMS
            rows = self._rows(
                f"SELECT content, spent.* FROM ({sums}) AS spent JOIN context ON id = context ORDER BY id"
            )
            found = [(orjson.loads(content), *map(operator.index, sums)) for content, _, *sums in rows]
            return [Spent(of["tier"], of["model"], n, refused, Usage(*tokens)) for of, n, refused, *tokens in found]
        except UNREADABLE as fault:
            raise self._failed("its replies cannot be counted", fault) from None

    def damaged(self) -> Iterator[str]:
        """What is wrong with it, in words, as of one moment: another process may be writing."""
        try:
            self._db.execute("BEGIN")
            for (finding,) in self._db.execute("PRAGMA integrity_check(10)"):
                if finding != "ok":
                    yield f"{self.path.name}: {finding}"
            yield from self._unsound()
        except UNREADABLE as fault:
            if not is_damage(fault):
                raise self._failed("", fault) from None
            yield f"{self.path.name}: {fault}"
        finally:
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")

    def _unsound(self) -> Iterator[str]:
        replies, total = 0, 0
        for key, content, at, dictionary, packed, digest, *said in self._db.execute(_ALL):
            replies, total = replies + 1, total + int.from_bytes(digest[:8])
            if not Stored(key, content, tuple(said), at, packed, digest).is_sound(partial(self._unpack, dictionary)):
                yield f"{self.path.name}: the reply with key {key.hex()} is not what was stored"
        if (replies, (total % (1 << 64)).to_bytes(8)) != self._head():
            yield f"{self.path.name}: holds {replies} replies, its head says {self._head()[0]}"
        if self.version > 1 and self._rows("SELECT * FROM spent ORDER BY context") != self._rows(SUMS):
            yield f"{self.path.name}: what was spent on its replies is not what they say"

    def _rows(self, query: str) -> list[Any]:
        return self._db.execute(query).fetchall()

    def close(self) -> None:
        """Close the file as it is."""
        self._db.close()


def _connect(path: Path, write: bool) -> sqlite3.Connection:
    """Readers and the writer have connections of their own, so that nothing is read before it is committed."""
    if write and not os.path.lexists(path):  # a link to where nothing is mounted is not nothing
        create(path)
    if path.stat().st_size == 0:
        raise ValueError("it is empty")  # SQLite would take it for new, and throw its log away
    if write:
        return sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    address = f"{path.absolute().as_uri()}?mode=ro"
    db = sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False)
    try:
        db.execute("SELECT 1 FROM head")
    except sqlite3.Error as fault:
        if getattr(fault, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_READONLY and os.access(path, os.W_OK):
            roll_back(path)
        if os.access(path.parent, os.W_OK) or path.with_name(f"{path.name}-wal").exists():
            return db
        db.close()  # a read-only disk has no room for SQLite's own notes
        db = sqlite3.connect(address + "&immutable=1", uri=True, isolation_level=None, check_same_thread=False)
    return db


def unpack(reader: zstandard.ZstdDecompressor, packed: bytes) -> bytes:
    """The JSON of a reply's texts, decompressed."""
    if zstandard.frame_content_size(packed) > _LARGEST:  # a damaged head, not a reply
        raise ValueError("no reply is that large")
    return reader.decompress(packed)


def _tokens(stored: Any) -> tuple[Token, ...] | None:
    if stored is None:
        return None
    return tuple(Token(text, logprob, tuple(map(tuple, top))) for text, logprob, top in stored)


def _circumstances(entry: Entry) -> str:
    call, reply = entry.call, entry.reply
    content = {
        "tier": call.tier,
        "client": call.client,
        "endpoint": entry.endpoint,
        "prompt": call.prompt,
        "model": call.request.model,
        "model_revision": call.request.model_revision,
        "served_model": reply.model,
        "fingerprint": reply.fingerprint,
        "engine": reply.engine,
        "dialect": reply.dialect,
    }
    return orjson.dumps(content).decode()


def _digest(key: bytes, content: str, said: Sequence[Any], body: bytes) -> bytes:
    """Of what was asked and answered under which circumstances, whenever that was and however it is stored."""
    return blake2b(orjson.dumps([key.hex(), content, *said]) + body, digest_size=8).digest()


def _checksum(at: float, packed: bytes) -> bytes:
    return crc32(packed, crc32(repr(at).encode())).to_bytes(4)
