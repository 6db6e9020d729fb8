"""Taking what can still be read of a damaged ledger over into a sound one.

Every reply carries its digest, so whatever looks like a reply can be tried, and what passes is one. So a damaged file
is read page by page, past SQLite, which would lose all that hangs below a broken page of one of its trees. How a page
is laid out: https://www.sqlite.org/fileformat2.html, parts 1.6 (pages, cells), 2.1 (records) and 4 (the log).
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import IO, Any

import zstandard

from relabel.errors import Damaged, LedgerError
from relabel.ledger import lock, segments, unlock
from relabel.schema import is_damage, put_in_place, settle, sync
from relabel.segment import Segment, Stored, unpack

_PAGE = 4096
"""SQLite's own choice, for where the file does not say."""
_CELLS = {13: (8, 0), 10: (8, 0), 2: (12, 4)}
"""By kind of page (leaf of a table, leaf and inner page of an index): bytes before the cell pointers and each cell."""
_TABLE = 13
_DICTIONARY = b"\x37\xa4\x30\xec"
"""What a zstd dictionary begins with."""
_LOGS = ("-wal", "-journal")
_BATCH = 1000


def salvage(folder: Path) -> list[str]:
    """Put a sound file in the place of each damaged one of a ledger; a sentence about each, nothing if all are sound.

    A damaged file is kept beside it, as `ledger-0001.sqlite.damaged`. The new one holds every reply that can be read
    and is, bit by bit, what was stored. A process killed in the middle leaves the ledger as it was, to be salvaged
    again. Raises LedgerError where another process is writing or reading, or the disk fails; then nothing is changed.
    """
    held = lock(folder)
    try:
        return [_salvage(path, found) for path in segments(folder) if (found := _damage(path))]
    finally:
        unlock(held)


def _damage(path: Path) -> str | None:
    """The first thing that is wrong with a file."""
    try:
        with closing(Segment(path, write=False)) as segment:
            found = next(segment.damaged(), None)
            return found and found.removeprefix(f"{path.name}: ").splitlines()[0]
    except Damaged as fault:
        return fault.found


def _salvage(path: Path, found: str) -> str:
    draft = _beside(path, ".new")
    try:
        _fold(path)
        kept = _set_aside(path)
        _discard(draft, "", *_LOGS, "-shm")
        with ExitStack() as stack:
            stack.callback(_discard, draft, "", *_LOGS, "-shm")
            taken, held = _take_over(kept, draft)
            settle(draft)
            _discard(path, *_LOGS, "-shm")
            put_in_place(draft, path)
    except (OSError, sqlite3.Error) as fault:
        raise LedgerError(
            f"{path}: cannot be salvaged: {fault}. It is as it was; look to the disk and its rights."
        ) from None
    if held is None or held < taken:
        salvaged = f"{taken:,} replies salvaged, what else it held will be asked again"
    else:
        rest = ", the others will be asked again" if taken < held else ""
        salvaged = f"{taken:,} of {held:,} replies salvaged{rest}"
    return f"{path} is damaged ({found}): {salvaged}; the damaged file is kept as {kept.name}"


def _fold(path: Path) -> None:
    """Fold SQLite's log into the file, as any writer would: then it is exchanged in a single step.

    SQLite throws the log of an empty file away. That one is exchanged after its log is kept and gone, which takes two
    steps; it cannot be opened in between, and is salvaged again should this process be killed there.
    """
    try:
        if path.stat().st_size:
            settle(path)
    except sqlite3.Error as fault:
        if not is_damage(fault):
            raise


def _set_aside(path: Path) -> Path:
    """Give the damaged file a second name, under which it is kept; the same one again after a crash."""
    names = (_beside(path, f".damaged-{number}" if number > 1 else ".damaged") for number in count(1))
    kept = next(name for name in names if not name.exists() or name.samefile(path))
    if not kept.exists():
        _discard(kept, *_LOGS)
        _link(path, kept)
    for log in _LOGS:
        if _beside(path, log).exists():
            _discard(kept, log)
            _link(_beside(path, log), _beside(kept, log))
    sync(path.parent)
    return kept


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # not every disk can
        copy = _beside(target, ".new")
        shutil.copyfile(source, copy)
        with copy.open("rb+") as file:
            os.fsync(file.fileno())
        copy.replace(target)


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _discard(path: Path, *endings: str) -> None:
    for ending in endings:
        _beside(path, ending).unlink(missing_ok=True)


def _take_over(kept: Path, draft: Path) -> tuple[int, int | None]:
    """Fill a new file; returns how many replies it holds, and how many the damaged one said that it held."""
    with ExitStack() as stack:
        log = _beside(kept, "-wal")
        files = [stack.enter_context(path.open("rb")) for path in (kept, log) if path.exists()]
        source = _Source(*files)
        fresh = stack.enter_context(closing(Segment(draft, write=True)))
        replies = source.replies()
        while batch := list(islice(replies, _BATCH)):
            fresh.adopt(batch)
        return fresh.head()[0], source.held


class _Source:
    """A damaged file, with SQLite's log where there is one."""

    def __init__(self, file: IO[bytes], log: IO[bytes] | None = None) -> None:
        self._file = file.fileno()
        self._log = None if log is None else log.fileno()
        self._bytes = sum(os.fstat(one.fileno()).st_size for one in (file, log) if one is not None)
        head = os.pread(self._file, 21, 0).ljust(21, b"\0")
        size = int.from_bytes(head[16:18])
        known = head.startswith(b"SQLite format 3\0") and size >= 512 and size.bit_count() == 1
        self._size, reserved = (size, head[20]) if known else (_PAGE, 0)
        self._usable = self._size - reserved
        self._newer = dict(self._frames())
        self._contexts: dict[int, set[str]] = defaultdict(set)
        self._dictionaries: dict[int, dict[bytes, zstandard.ZstdDecompressor]] = defaultdict(dict)
        self._dictionaries[0] = {b"": zstandard.ZstdDecompressor()}
        self.held: int | None = None
        """How many replies it held before it was damaged, where that can be read."""
        self._survey()

    def _frames(self) -> Iterator[tuple[int, int]]:
        """The number of each page in the log, and where in the log it lies; oldest first."""
        if self._log is not None:
            salt = os.pread(self._log, 8, 16)
            for at in range(32, os.fstat(self._log).st_size, 24 + self._size):
                head = os.pread(self._log, 24, at)
                if len(head) == 24 and head[8:16] == salt:
                    yield int.from_bytes(head[:4]), at + 24

    def _page(self, number: int) -> bytes:
        if self._log is not None and number in self._newer:
            return os.pread(self._log, self._size, self._newer[number])
        return os.pread(self._file, self._size, (number - 1) * self._size)

    def _pages(self) -> Iterator[bytes]:
        """Every page, the outdated ones too: they may be all that is left of a reply."""
        for at in range(0, os.fstat(self._file).st_size, self._size):
            yield os.pread(self._file, self._size, at)
        if self._log is not None:
            for _, at in self._frames():
                yield os.pread(self._log, self._size, at)

    def _survey(self) -> None:
        """Take up what the replies need. Contexts and dictionaries lie in an index, too, the other way round."""
        for row in self._rows({2, 3}):
            match row:
                case (int(identity), str(content)) | (str(content), int(identity)):
                    self._contexts[identity].add(content)
                case (int(identity), bytes(content)) | (bytes(content), int(identity)) if content.startswith(
                    _DICTIONARY
                ):
                    with suppress(zstandard.ZstdError):
                        dictionary = zstandard.ZstdCompressionDict(content)
                        self._dictionaries[identity][content] = zstandard.ZstdDecompressor(dict_data=dictionary)
                case (1, int(replies), bytes()):
                    self.held = max(replies, self.held or 0)

    def replies(self) -> Iterator[tuple[Stored, bytes]]:
        """Every sound reply, some more than once, each with its dictionary's content."""
        for _, key, context, *said, at, seconds, dictionary, packed, digest in self._rows({13}):
            with suppress(TypeError, ValueError):  # float: SQLite stores a whole REAL as an integer
                told, when = (*said, float(seconds)), float(at)
                for content in self._contexts.get(context, ()):
                    stored = Stored(key, content, told, when, packed, digest)
                    for learnt, reader in self._dictionaries.get(dictionary, {}).items():
                        if stored.is_sound(partial(unpack, reader)):
                            yield stored, learnt
                            break

    def _rows(self, columns: set[int]) -> Iterator[tuple[Any, ...]]:
        """Whatever looks like a row, or an entry of an index, of so many columns."""
        for page in self._pages():
            if page and page[0] in _CELLS:
                start, skipped = _CELLS[page[0]]
                cells = min(int.from_bytes(page[3:5]), (len(page) - start) // 2)
                for at in struct.unpack_from(f">{cells}H", page, start):
                    with suppress(IndexError, ValueError, struct.error):
                        if (row := self._row(page, at + skipped, columns)) is not None:
                            yield row

    def _row(self, page: bytes, at: int, columns: set[int]) -> tuple[Any, ...] | None:
        total, at = _varint(page, at)
        number = None
        if page[0] == _TABLE:
            number, at = _varint(page, at)
        end, cursor = _varint(page, at)
        types = []
        while cursor < at + end:
            kind, cursor = _varint(page, cursor)
            types.append(kind)
        if len(types) not in columns or total > self._bytes:
            return None
        payload, values, place = self._payload(page, at, total), [], end
        for kind in types:
            value, place = _value(kind, payload, place)
            values.append(value)
        return tuple(values) if number is None else (number, *values[1:])

    def _payload(self, page: bytes, at: int, total: int) -> bytes:
        """A cell's content, with what of it lies on further pages."""
        usable = self._usable
        most = usable - 35 if page[0] == _TABLE else (usable - 12) * 64 // 255 - 23
        if total <= most:
            return page[at : at + total]
        least = (usable - 12) * 32 // 255 - 23
        here = least + (total - least) % (usable - 4)
        here = here if here <= most else least
        found, following = bytearray(page[at : at + here]), int.from_bytes(page[at + here : at + here + 4])
        while len(found) < total and following:
            more = self._page(following)
            following = int.from_bytes(more[:4])
            found += more[4:usable]
        return bytes(found[:total])


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place in range(at, at + 8):
        value = value << 7 | data[place] & 0x7F
        if data[place] < 0x80:
            return value, place + 1
    return value << 8 | data[at + 8], at + 9


def _value(kind: int, payload: bytes, at: int) -> tuple[Any, int]:
    """A value of a record, and where the next one begins."""
    if kind >= 12:
        end = at + (kind - 12) // 2
        return payload[at:end] if kind % 2 == 0 else payload[at:end].decode(), end
    if kind in (8, 9):
        return kind - 8, at
    end = at + (0, 1, 2, 3, 4, 6, 8, 8)[kind]
    if kind == 7:
        return struct.unpack_from(">d", payload, at)[0], end
    return int.from_bytes(payload[at:end], signed=True) if kind else None, end
