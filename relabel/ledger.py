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
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, Any

import orjson

from relabel.errors import LedgerError
from relabel.records import Reply, Usage
from relabel.schema import settle
from relabel.segment import Entry, Segment, Spent, migrate
from relabel.text import printable

__all__ = ["Entry", "Ledger", "Spent", "lock", "segments", "unlock"]


_GATHERED = 0.01
"""Seconds for which replies are gathered before a commit: nothing beside a model's latency, and far fewer commits."""


class Ledger:
    """All files of one run's ledger, and those of other runs that may answer too."""

    def __init__(self, folder: Path | None, read: Sequence[str | Path] = (), *, write: bool = False) -> None:
        """`folder` is the run's own, None where only others are read."""
        self._folder = folder
        self._own: list[Segment] = []
        self._others: list[Segment] = []
        self._writer: Segment | None = None
        self._lock: IO[bytes] | None = None
        self._thread = ThreadPoolExecutor(1, "ledger") if write else None
        self._waiting: list[tuple[Entry, asyncio.Future[None]]] = []
        self._flusher: asyncio.Task[None] | None = None
        try:
            if folder is not None:
                self._open(folder, write)
            self._others += [Segment(path, write=False) for place in read for path in _named(Path(place))]
        except BaseException:
            self.close()
            raise

    def _open(self, folder: Path, write: bool) -> None:
        if write:
            self._lock = lock(folder)
            *older, last = segments(folder) or [_file(folder, 1)]
            for path in older:
                migrate(path)
            self._writer = Segment(last, write=True)
        self._own += [Segment(path, write=False) for path in segments(folder)]

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
            await asyncio.sleep(_GATHERED)
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
            self._writer.close()
            self._writer = Segment(_next(self._writer.path), write=True)
            self._own.append(Segment(self._writer.path, write=False))
        self._writer.store(entries)

    def head(self) -> str:
        """A digest of all that the ledgers hold; the same replies give the same head, in whatever order they came."""
        heads = [segment.head() for segment in (*self._own, *self._others)]
        total = sum(int.from_bytes(digest) for _, digest in heads) % (1 << 64)
        return f"{sum(replies for replies, _ in heads)}:{total:016x}"

    def spent(self, *, read: bool = False) -> list[Spent]:
        """What this run itself has paid for, by tier and model; with `read`, what the ledgers that it reads hold."""
        found: dict[tuple[str, str], Spent] = {}
        for segment in self._others if read else self._own:
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
        """Close all files and give the lock back, also where what still waits cannot be stored: LedgerError says so."""
        if self._thread is not None:
            self._thread.shutdown()
        try:
            if self._waiting:  # the loop was torn down before they could be stored
                self.store([entry for entry, _ in self._waiting])
        finally:
            self._waiting = []
            for segment in (*self._own, *self._others, *filter(None, [self._writer])):
                segment.close()
            if self._writer is not None:
                self._settle(self._writer.path.parent)
            if self._lock is not None:
                unlock(self._lock)

    @staticmethod
    def _settle(folder: Path) -> None:
        with suppress(LedgerError):
            for path in segments(folder):
                with suppress(sqlite3.Error):
                    settle(path)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: object, fault: object, trace: object) -> None:
        with suppress(LedgerError) if fault else nullcontext():  # the first error says what happened
            self.close()


def segments(folder: Path) -> list[Path]:
    """The files of a run's ledger, oldest first."""
    try:
        return sorted(path for path in folder.iterdir() if fnmatch(path.name, "ledger-*.sqlite"))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as fault:
        raise LedgerError(f"{folder}: cannot be listed: {fault.strerror}. Check the folder's rights.") from None


def _file(folder: Path, number: int) -> Path:
    return folder / f"ledger-{number:04d}.sqlite"


def _next(path: Path) -> Path:
    return _file(path.parent, int(path.stem.removeprefix("ledger-")) + 1)


def _named(place: Path) -> list[Path]:
    found = [place] if place.is_file() else segments(place)
    if not found:
        raise LedgerError(f"{place}: no ledger there; expected a run folder, or a ledger-*.sqlite file")
    return found


def lock(folder: Path) -> IO[bytes]:
    """Hold `ledger.lock`, or say who does. The system lets go of it when the process ends, however it ends."""
    import fcntl

    path = folder / "ledger.lock"
    try:
        file = path.open("ab+", buffering=0)
    except OSError as fault:
        raise LedgerError(f"{path}: {fault.strerror}. Check that the run folder can be written.") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as fault:
        holder = _holder(file)
        file.close()
        if isinstance(fault, BlockingIOError):
            found = f"{folder}: {holder} is writing this run. Wait for it, or use another --output."
        else:
            found = f"{path}: cannot be locked: {fault.strerror}. Use an --output on a disk that knows locks."
        raise LedgerError(found) from None
    with suppress(OSError):  # on a full disk, others will not be told who holds it
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
    return file


def holder(folder: Path) -> str:
    """Which process is writing a run's ledger; nothing if none is."""
    import fcntl

    try:
        with (folder / "ledger.lock").open("rb", buffering=0) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _holder(file)
    except OSError:
        pass
    return ""


def unlock(file: IO[bytes]) -> None:
    """Give the lock back."""
    with suppress(OSError):
        file.truncate(0)
    file.close()


def _holder(file: IO[bytes]) -> str:
    file.seek(0)
    return " ".join(printable(file.read(200).decode(errors="replace")).split()) or "another process"
