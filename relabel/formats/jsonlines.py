"""JSON Lines: plain, .gz or .zst. What is unchanged is written back as the very bytes it was read from."""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from relabel.errors import InputError
from relabel.formats.base import Record, Row, file_identity, kind_of

BOM = b"\xef\xbb\xbf"
_DEEPEST = 254
"""Levels of nesting that orjson writes; a deeper record could be read but not be put in quarantine."""

_FIRST_KEY = re.compile(r'\s*\{\s*"(?:[^"\\]|\\.)*"(\s*:\s*)')
_COMMA = re.compile(r"\s*,\s*")
_ESCAPE = re.compile(rb"(?<!\\)(?:\\\\)*\\u(?!00[01])")


class JsonLines:
    """JSON Lines. Blank lines are no records; every other line is a row, even one that cannot be read."""

    def __init__(self, path: Path, compression: str = "") -> None:
        self.path = path
        self.compression = compression
        self.suffix = ".jsonl" + compression
        self._position = 0.0

    def rows(self, only: Set[int] | None = None) -> Iterator[Row]:
        """Line by line; of all but the wanted ones not even parsed. Raises InputError where a compressed file is
        damaged or cut off.
        """
        size = max(self.path.stat().st_size, 1)
        with self.path.open("rb") as file:
            lines = decompressed(file, self.compression)
            number = 0
            while True:
                try:
                    raw = lines.readline()
                except (OSError, EOFError, zlib.error) as fault:
                    message = f"{self.path}: damaged after line {number}: {fault}. Check the file, or copy it anew."
                    raise InputError(message) from None
                if not raw:
                    break
                number += 1
                if only is not None and number not in only:
                    continue
                self._position = file.tell() / size
                if not (raw.isspace() or (number == 1 and raw.strip() == BOM)):
                    yield json_row(number, raw)
        self._position = 1.0

    def fraction(self) -> float | None:
        """By the bytes read from disk."""
        return self._position

    def identity(self) -> tuple[int, str]:
        """Of the file as it lies on disk."""
        return file_identity([self.path])

    def sink(self, path: Path, sides: tuple[str, str]) -> JsonLinesSink:
        """Compressed as this store is."""
        return JsonLinesSink(path, self.compression)


class JsonLinesSink:
    """Writes raw bytes where a row is unchanged, and otherwise JSON in the style of the row it replaces."""

    def __init__(self, path: Path, compression: str = "") -> None:
        self._file = path.open("wb")
        self._out: Any = self._file
        if compression == ".gz":
            self._out = gzip.GzipFile(filename="", mode="wb", fileobj=self._file, mtime=0)
        elif compression == ".zst":
            import zstandard

            self._out = zstandard.ZstdCompressor(level=6).stream_writer(self._file, closefd=False)
        self._whole_line = True
        self._escapes = False

    def write(self, row: Row) -> None:
        """Append a line; a missing newline before it is added."""
        if row.raw is not None:
            self._escapes = _escapes(row.raw, self._escapes)
        unchanged = row.raw is not None and not row.changed
        line = row.raw if unchanged else _dumps_like(row.record, row.raw, self._escapes)
        assert line is not None
        self._out.write(line if self._whole_line else b"\n" + line)
        self._whole_line = line.endswith(b"\n")

    def close(self) -> None:
        """Flush everything to the file."""
        if self._out is not self._file:
            self._out.close()
        self._file.close()


def decompressed(file: BinaryIO, compression: str) -> BinaryIO:
    """The content of an open file. A cut-off file raises where it ends: zstandard's own reader would not."""
    if compression == ".gz":
        return gzip.GzipFile(fileobj=file, mode="rb")  # type: ignore[return-value]
    if compression == ".zst":
        import pyarrow as pa

        return io.BufferedReader(pa.CompressedInputStream(file, "zstd"))
    return file


def json_row(number: int, raw: bytes) -> Row:
    """A line as a row; one that holds no JSON object is a row with a problem."""
    line = raw.removeprefix(BOM) if number == 1 else raw
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as fault:
        record, problem = _lenient(line, f"not JSON: {fault.msg} at column {fault.colno}")
    else:
        problem = None
    if problem is None and line.count(b"[") + line.count(b"{") > _DEEPEST and _too_deep(record):
        problem = f"nested deeper than {_DEEPEST} levels"
    if problem is not None:
        return Row(number, line.decode(errors="backslashreplace").rstrip("\r\n"), problem=problem)
    if not isinstance(record, dict):
        return Row(number, record, problem=f"{kind_of(record)}, expected a JSON object")
    return Row(number, record, raw)


def _lenient(line: bytes, problem: str) -> tuple[Any, str | None]:
    """What Python's json reads and orjson refuses (NaN), as long as it can be written back as UTF-8."""
    try:
        text = line.decode()
    except UnicodeDecodeError as fault:
        return None, f"not UTF-8: byte {line[fault.start]:#04x} at column {fault.start + 1}"
    try:
        record = json.loads(text, parse_int=_whole_number)
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return None, "not text: half of a surrogate pair stands alone"
    except (ValueError, RecursionError):
        return None, problem
    return record, None


def _whole_number(digits: str) -> int | float:
    """As orjson has it: beyond 64 bits a number is a float. `Row.fresh` gives it back exactly."""
    number = int(digits)
    return number if -(2**63) <= number < 2**64 else float(digits)


def _too_deep(record: object) -> bool:
    try:
        orjson.dumps(record)
    except TypeError:
        return True
    return False


def _escapes(raw: bytes, before: bool) -> bool:
    """Whether a line escapes what is not ASCII; one that is all ASCII does as the lines before it did."""
    return raw.isascii() and (before or (b"\\u" in raw and _ESCAPE.search(raw) is not None))


def _dumps_like(record: Record, raw: bytes | None, escapes: bool) -> bytes:
    """The record as JSON with the separators and line ending of `raw`; with spaces, without a model.

    What only Parquet knows (dates, decimals, bytes) becomes text.
    """
    if raw is None:
        return json.dumps(record, ensure_ascii=False, default=str).encode() + b"\n"
    line = json.dumps(record, ensure_ascii=escapes, separators=_separators(raw.decode("utf-8-sig"))).encode()
    return line + raw[len(raw.rstrip(b"\r\n")) :]


def _separators(line: str) -> tuple[str, str]:
    """What stands between two items, and between a key and its value, at their first places in the line."""
    key = _FIRST_KEY.match(line)
    if key is None:
        return ", ", ": "
    _, end = json.JSONDecoder().raw_decode(line, key.end())
    comma = _COMMA.match(line, end)
    return comma[0] if comma else ", " if key[1].endswith(" ") else ",", key[1]
