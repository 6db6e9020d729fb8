"""Where rows lie: JSON Lines (plain, .gz, .zst), Parquet, a Hugging Face dataset on disk or on the hub.

A store streams rows in order and opens sinks that stream rows out again, in constant memory and with the same bytes
for the same rows. What a file is, its first bytes say; its name does not matter.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterator, Set
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from relabel.errors import InputError
from relabel.formats.base import Row
from relabel.formats.huggingface import HuggingFaceDisk, HuggingFaceHub
from relabel.formats.jsonlines import JsonLines, JsonLinesSink, decompressed
from relabel.formats.parquet import Parquet, SchemalessParquetSink

_HEAD = 4096
_COMPRESSIONS = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst"}
_ARCHIVES = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"PK\x03\x04": "a zip archive"}
_ARRAY = re.compile(rb"\[(\s*[{\]]|[ \t]*\r?\n)")


class RowSink(Protocol):
    """Takes rows in order; the output is whole once `close` has returned."""

    def write(self, row: Row) -> None:
        """Append a row."""

    def close(self) -> None:
        """Finish the output."""


class Store(Protocol):
    """A place that rows are read from, and that rows can be written to in the same way."""

    suffix: str
    """What the name of a copy ends in: `.jsonl.gz`, `.parquet`, `.hf`."""

    def rows(self, only: Set[int] | None = None) -> Iterator[Row]:
        """All rows, from the first, numbered from 1; or of these only those with a wanted number."""

    def fraction(self) -> float | None:
        """The share that the latest `rows()` has read so far, from 0 to 1, where it can be told."""

    def identity(self) -> tuple[int, str]:
        """(size in bytes, sha256 in hex) of the content."""

    def sink(self, path: Path, sides: tuple[str, str]) -> RowSink:
        """A place of the same kind to write to; `sides` tells positive columns from negative ones (see Format)."""


def open_store(path: str, *, name: str | None, split: str | None, revision: str | None) -> Store:
    """The store for `input.path`: a file by its first bytes, a folder by what is in it, else a hub id."""
    place = Path(path.removeprefix("hf://"))
    try:
        if path.startswith("hf://") or (not place.exists() and _is_hub_id(path)):
            return HuggingFaceHub(path.removeprefix("hf://"), name, split, revision)
        if place.is_dir():
            if (place / "dataset_info.json").exists() or (place / "dataset_dict.json").exists():
                refuse(path, "a saved dataset", name=name, revision=revision)
                return HuggingFaceDisk(place, split)
            raise InputError(
                f"{path}: a folder that is neither a dataset saved by Hugging Face nor a BEIR set (corpus.jsonl, "
                "queries.jsonl, qrels/); name a file in it"
            )
        with place.open("rb") as file:
            head = file.read(_HEAD)
    except (OSError, ValueError) as fault:  # a name that no file can have is a ValueError
        raise InputError(f"{path}: {getattr(fault, 'strerror', None) or fault}. Check input.path.") from None
    refuse(path, "a file", name=name, split=split, revision=revision)
    return _store_of_file(place, head)


def refuse(path: str, what: str, **given: str | None) -> None:
    """Refuse what is said of a source that it cannot have: nobody would notice that it is ignored."""
    for name, value in given.items():
        if value is not None:
            raise InputError(f"{path}: {what} has no {name} (found {value!r}); leave out input.{name}")


FILES = (".jsonl", ".json", ".ndjson", ".gz", ".zst", ".parquet")
"""Suffixes of files that rows can be written to."""


def new_file(path: Path) -> RowSink:
    """A sink for rows that come from nowhere in particular: Parquet or compressed as the suffix says, else plain."""
    if path.suffix == ".parquet":
        return SchemalessParquetSink(path)
    return JsonLinesSink(path, path.suffix if path.suffix in (".gz", ".zst") else "")


def _store_of_file(path: Path, head: bytes) -> Store:
    if not head:
        raise InputError(f"{path}: the file is empty, expected records")
    if head.startswith(b"PAR1"):
        return Parquet(path)
    archive = next((kind for magic, kind in _ARCHIVES.items() if head.startswith(magic)), None)
    if archive is not None:
        raise InputError(f"{path}: {archive}, expected plain text, .gz or .zst; unpack it first")
    compression = next((suffix for magic, suffix in _COMPRESSIONS.items() if head.startswith(magic)), "")
    start = head
    with suppress(OSError, EOFError, zlib.error):  # a damaged file is reported when it is read
        start = decompressed(io.BytesIO(head), compression).read1(_HEAD)  # type: ignore[attr-defined]
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{path}: UTF-16, expected UTF-8. Try: iconv -f UTF-16 -t UTF-8 {path.name} > utf8.jsonl")
    if _ARRAY.match(start.lstrip(b"\xef\xbb\xbf \t\r\n")):
        raise InputError(f"{path}: one JSON array, expected JSON Lines. Try: jq -c '.[]' {path.name} > lines.jsonl")
    return JsonLines(path, compression)


def _is_hub_id(path: str) -> bool:
    parts = path.split("/")
    plain = all(part.replace("-", "").replace("_", "").replace(".", "").isalnum() for part in parts)
    return len(parts) == 2 and plain and not path.endswith((".jsonl", ".json", ".parquet", ".gz", ".zst"))
