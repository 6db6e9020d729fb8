"""What every format shares: rows, the protocol, identities for what carries none, and checks that name the fault."""

from __future__ import annotations

import copy
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import orjson

from relabel.records import Instance, Passage, Quarantined

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One record of a source, with its 1-based number there.

    `raw` holds the bytes it was read from where the storage has such (JSON Lines). A `problem` says why a row could
    not be read; `record` then holds what could be shown of it. A `changed` row is written anew, in the style of `raw`.
    """

    number: int
    record: Any
    raw: bytes | None = None
    problem: str | None = None
    changed: bool = False

    def parsed(self) -> Record:
        """The record, or a RecordError that says why it could not be read."""
        if self.problem is not None:
            raise RecordError(self.problem)
        return dict(self.record) if not isinstance(self.record, dict) else self.record

    def fresh(self) -> Record:
        """A copy of the record that may be edited, with every whole number exact, however large."""
        if self.raw is not None:
            return dict(json.loads(self.raw.decode("utf-8-sig")))
        return copy.deepcopy(dict(self.record))

    def content(self) -> Record:
        """The record, read anew if the row is light."""
        return self.fresh() if self.record is None else dict(self.record)

    def light(self) -> Row:
        """The row without its parsed record, where `raw` can give it back."""
        return self if self.raw is None else Row(self.number, None, self.raw)

    def rewritten(self, record: Record) -> Row:
        """The row with another record in its place."""
        return replace(self, record=record, changed=True)


class Format(Protocol):
    """How instances lie in rows. One object reads and writes, side by side."""

    name: str
    needs_negatives: bool
    """Whether an instance without negatives cannot be expressed in this format."""
    sides: tuple[str, str]
    """What the names of columns with positives, and of those with negatives, begin with."""
    one_row: bool
    """Whether every row is an instance of its own, so that one can be read without those before it (but for the
    number behind a repeated id)."""

    def recognises(self, record: Mapping[str, Any]) -> bool:
        """Whether a record looks like this format, by its columns."""

    def read(self, rows: Iterable[Row], subset: str) -> Iterator[Instance | Quarantined]:
        """Instances in the order of their rows; `subset` names the source of those that do not say."""

    def revise(self, instance: Instance, relabelled: Sequence[int], dropped: Sequence[int]) -> Iterator[Row]:
        """The instance's rows with these candidates (0-based places) moved to the positives or taken out."""

    def compose(self, instance: Instance) -> Iterator[Record]:
        """The instance as records of this format, whatever format it came from."""


def file_identity(paths: Iterable[Path]) -> tuple[int, str]:
    """(size in bytes, sha256 in hex) of the files' content, one after the other."""
    digest, size = sha256(), 0
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
                size += len(block)
    return size, digest.hexdigest()


class RecordError(Exception):
    """Why a record is quarantined: what was found and what was expected."""


def text_id(title: str, text: str) -> str:
    """The docid of a passage that carries none: 32 hex digits of the sha256 of its (title, text)."""
    return sha256(orjson.dumps([title, text])).hexdigest()[:32]


def instance_id(query: str, positives: Iterable[Passage]) -> str:
    """The query_id of an instance that carries none: 32 hex digits of the sha256 of (query, positives)."""
    return sha256(orjson.dumps([query, [p.identity for p in positives]])).hexdigest()[:32]


class Repeats:
    """Tells repeated ids apart: the second `x` becomes `x-2`. Keeps what it has seen on disk, not in memory."""

    def __init__(self) -> None:
        self._seen = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._seen.execute("PRAGMA journal_mode=OFF")
        self._seen.execute("BEGIN")
        self._seen.execute("CREATE TABLE seen (id TEXT PRIMARY KEY, times INTEGER) WITHOUT ROWID")

    def name(self, identity: str) -> str:
        """The id itself the first time, then with `-2`, `-3` and so on."""
        (times,) = self._seen.execute(
            "INSERT INTO seen VALUES (?, 1) ON CONFLICT DO UPDATE SET times = times + 1 RETURNING times", (identity,)
        ).fetchone()
        return identity if times == 1 else f"{identity}-{times}"

    def close(self) -> None:
        """Forget everything."""
        self._seen.close()


def numbered(ids: Iterable[str]) -> list[str]:
    """The ids of one instance's passages with repeats told apart, as `Repeats` does for a whole source."""
    seen: dict[str, int] = {}
    names = []
    for identity in ids:
        seen[identity] = seen.get(identity, 0) + 1
        names.append(identity if seen[identity] == 1 else f"{identity}-{seen[identity]}")
    return names


def kind_of(value: object) -> str:
    """A JSON value's type in words, for messages."""
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list"}
    return names.get(type(value), "an object" if isinstance(value, Mapping) else f"a {type(value).__name__}")


def want_text(record: Mapping[str, Any], name: str, where: str = "") -> str:
    """The non-empty string under `name`, or a RecordError that says what stands there."""
    value = record.get(name)
    if isinstance(value, str) and value.strip():
        return value
    if name not in record:
        raise RecordError(f"{where}{name} is missing")
    found = "an empty string" if isinstance(value, str) else kind_of(value)
    raise RecordError(f"{where}{name} is {found}, expected a text")


def want_list(record: Mapping[str, Any], name: str) -> list[Any]:
    """The list under `name`, or a RecordError that says what stands there."""
    value = record.get(name)
    if isinstance(value, list):
        return value
    if name not in record:
        raise RecordError(f"{name} is missing")
    raise RecordError(f"{name} is {kind_of(value)}, expected a list")


def want_id(record: Mapping[str, Any], name: str, where: str = "") -> str:
    """The id under `name`, given as a string or a whole number."""
    value = record.get(name)
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if name not in record:
        raise RecordError(f"{where}{name} is missing")
    found = "an empty string" if value == "" else f"the number {value}" if isinstance(value, float) else kind_of(value)
    raise RecordError(f"{where}{name} is {found}, expected a string or a whole number of at most 64 bits")


def optional_text(record: Mapping[str, Any], name: str, where: str = "") -> str:
    """The string under `name`; nothing and null mean the empty string."""
    value = record.get(name)
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    raise RecordError(f"{where}{name} is {kind_of(value)}, expected a string")


def optional_score(value: object, where: str) -> float | None:
    """A number, or nothing."""
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    raise RecordError(f"{where} is {kind_of(value)}, expected a number")


def check_positives(positives: Sequence[Passage]) -> None:
    """Refuse an instance that has nothing to compare its candidates with."""
    if not positives:
        raise RecordError("no positive passage")
    for number, passage in enumerate(positives, 1):
        if not passage.text.strip() and not passage.title.strip():
            raise RecordError(f"positive {number} has no text")


def without(items: Sequence[Any], places: Iterable[int]) -> list[Any]:
    """The items but for those at these 0-based places."""
    gone = set(places)
    return [item for place, item in enumerate(items) if place not in gone]
