"""Where rows lie: JSON Lines (plain, .gz, .zst), Parquet, a Hugging Face dataset on disk or on the hub.

A store streams rows in order and opens sinks that stream rows out again, in constant memory and with the same bytes
for the same rows.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import orjson

from relabel.errors import InputError
from relabel.formats.base import Record, Row

_BATCH = 512


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

    def rows(self) -> Iterator[Row]:
        """All rows, from the first, numbered from 1."""

    def fraction(self) -> float | None:
        """The share that the latest `rows()` has read so far, from 0 to 1, where it can be told."""

    def identity(self) -> tuple[int, str]:
        """(size in bytes, sha256 in hex) of the content."""

    def sink(self, path: Path) -> RowSink:
        """A place of the same kind to write to, at `path`."""


class JsonLines:
    """JSON Lines. An unchanged row is written back as the very bytes it was read from."""

    def __init__(self, path: Path, compression: str = "") -> None:
        self.path = path
        self.compression = compression
        self.suffix = ".jsonl" + compression
        self._position = 0.0

    def rows(self) -> Iterator[Row]:
        """Blank lines are no records; every other line is a row, even one that cannot be read."""
        size = max(self.path.stat().st_size, 1)
        with self.path.open("rb") as file:
            lines = _decompressed(file, self.compression)
            number = 0
            while True:
                try:
                    raw = lines.readline()
                except (OSError, EOFError, ValueError) as fault:
                    message = f"{self.path}: damaged after line {number}: {fault}. Check the file, or copy it anew."
                    raise InputError(message) from None
                if not raw:
                    break
                number += 1
                self._position = file.tell() / size
                if raw.strip():
                    yield _json_row(number, raw)
        self._position = 1.0

    def fraction(self) -> float | None:
        """By the bytes read from disk."""
        return self._position

    def identity(self) -> tuple[int, str]:
        """Of the file as it lies on disk."""
        return _file_identity([self.path])

    def sink(self, path: Path) -> JsonLinesSink:
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

    def write(self, row: Row) -> None:
        """Append a line; a missing newline before it is added."""
        line = row.raw if row.raw is not None and not row.changed else _dumps_like(row.record, row.raw)
        self._out.write(line if self._whole_line else b"\n" + line)
        self._whole_line = line.endswith(b"\n")

    def close(self) -> None:
        """Flush everything to the file."""
        if self._out is not self._file:
            self._out.close()
        self._file.close()


class Parquet:
    """A Parquet file. Rows carry no raw bytes; the schema is kept as it is."""

    suffix = ".parquet"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._position = 0.0

    def rows(self) -> Iterator[Row]:
        """Read batch by batch."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.path) as file:
            total, number = max(file.metadata.num_rows, 1), 0
            for batch in file.iter_batches(_BATCH):
                for record in batch.to_pylist():
                    number += 1
                    self._position = number / total
                    yield Row(number, record)

    def fraction(self) -> float | None:
        """By rows."""
        return self._position

    def identity(self) -> tuple[int, str]:
        """Of the file as it lies on disk."""
        return _file_identity([self.path])

    def sink(self, path: Path) -> ParquetSink:
        """With this file's schema."""
        import pyarrow.parquet as pq

        return ParquetSink(path, pq.read_schema(self.path))


class ParquetSink:
    """Writes row groups of bounded size. Without a schema, that of the first rows is taken."""

    def __init__(self, path: Path, schema: Any = None) -> None:
        self._path = path
        self._schema = schema
        self._writer: Any = None
        self._rows: list[Record] = []

    def write(self, row: Row) -> None:
        """Append a row."""
        self._rows.append(row.record)
        if len(self._rows) >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_pylist(self._rows, schema=self._schema)
        if self._writer is None:
            self._schema = table.schema
            self._writer = pq.ParquetWriter(self._path, self._schema, compression="zstd")
        self._writer.write_table(table)
        self._rows = []

    def close(self) -> None:
        """Write what is left, and the footer."""
        if self._rows or self._writer is None:
            self._flush()
        self._writer.close()


class HuggingFaceDisk:
    """A dataset written by `Dataset.save_to_disk`, or one split of a saved `DatasetDict`."""

    suffix = ".hf"

    def __init__(self, path: Path, split: str | None) -> None:
        import datasets

        loaded = datasets.load_from_disk(str(path))
        if isinstance(loaded, datasets.DatasetDict):
            name = split or ("train" if "train" in loaded else next(iter(loaded), ""))
            if name not in loaded or (split is None and name != "train" and len(loaded) > 1):
                raise InputError(
                    f"{path}: holds the splits {', '.join(loaded)}; say which one with input.split"
                    + (f" (found {split!r})" if split else "")
                )
            loaded = loaded[name]
        self.path = path
        self._dataset = loaded
        self._position = 0.0

    def rows(self) -> Iterator[Row]:
        """Read batch by batch from the memory-mapped files."""
        total, number = max(len(self._dataset), 1), 0
        for table in self._dataset.with_format("arrow").iter(_BATCH):
            for record in table.to_pylist():
                number += 1
                self._position = number / total
                yield Row(number, record)

    def fraction(self) -> float | None:
        """By rows."""
        return self._position

    def identity(self) -> tuple[int, str]:
        """Of the split's data files, in order."""
        return _file_identity([Path(file["filename"]) for file in self._dataset.cache_files])

    def sink(self, path: Path) -> HuggingFaceSink:
        """With this dataset's features."""
        return HuggingFaceSink(path, self._dataset.features, self._dataset.split)


class HuggingFaceSink:
    """Writes what `datasets.load_from_disk` reads, by way of an Arrow file beside it."""

    def __init__(self, path: Path, features: Any, split: Any) -> None:
        from datasets.arrow_writer import ArrowWriter

        self._path = path
        self._features = features
        self._split = split
        self._arrow = path.with_name(path.name + ".arrow")
        self._writer = ArrowWriter(path=str(self._arrow), features=features, writer_batch_size=_BATCH)

    def write(self, row: Row) -> None:
        """Append a row."""
        self._writer.write(row.record)

    def close(self) -> None:
        """Turn the Arrow file into a saved dataset, its fingerprint taken from the content."""
        import datasets
        from datasets.table import MemoryMappedTable

        self._writer.finalize()
        self._writer.close()
        _, content = _file_identity([self._arrow])
        dataset = datasets.Dataset(
            MemoryMappedTable.from_file(str(self._arrow)),
            info=datasets.DatasetInfo(features=self._features),
            split=self._split,
            fingerprint=content[:16],
        )
        datasets.disable_progress_bars()
        dataset.save_to_disk(str(self._path))
        self._arrow.unlink()


class HuggingFaceHub:
    """A dataset on the hub, streamed. The cleaned set is written as Parquet."""

    suffix = ".parquet"

    def __init__(self, name: str, config: str | None, split: str | None, revision: str | None) -> None:
        import datasets

        self._where = f"{name}@{revision}" if revision else name
        try:
            self._dataset = datasets.load_dataset(
                name, config, split=split or "train", revision=revision, streaming=True
            )
        except Exception as fault:
            raise InputError(
                f"{self._where}: neither a file here nor a dataset that the hub gave us ({type(fault).__name__}: "
                f"{str(fault).splitlines()[0] if str(fault) else 'no message'}). Check input.path, input.name and "
                "input.split."
            ) from None

    def rows(self) -> Iterator[Row]:
        """As they arrive."""
        for number, record in enumerate(self._dataset, 1):
            yield Row(number, record)

    def fraction(self) -> float | None:
        """Nobody knows how much is still to come."""
        return None

    def identity(self) -> tuple[int, str]:
        """Of the names and checksums of the files that the revision consists of; the size is not known (0)."""
        info = self._dataset.info
        parts = [self._where, str(info.config_name), str(self._dataset.split), str(info.version)]
        parts += sorted(map(str, info.download_checksums or ()))
        return 0, sha256("\n".join(parts).encode()).hexdigest()

    def sink(self, path: Path) -> ParquetSink:
        """With the dataset's features, where the hub told them."""
        features = self._dataset.features
        return ParquetSink(path, features.arrow_schema if features else None)


def open_store(path: str, *, name: str | None, split: str | None, revision: str | None) -> Store:
    """The store for `input.path`: a file by its first bytes, a folder by what is in it, else a hub id."""
    place = Path(path.removeprefix("hf://"))
    if path.startswith("hf://") or (not place.exists() and _is_hub_id(path)):
        return HuggingFaceHub(path.removeprefix("hf://"), name, split, revision)
    if place.is_dir():
        if (place / "dataset_info.json").exists() or (place / "dataset_dict.json").exists():
            return HuggingFaceDisk(place, split)
        raise InputError(
            f"{path}: a folder that is neither a dataset saved by Hugging Face nor a BEIR set (corpus.jsonl, "
            "queries.jsonl, qrels/); name a file in it"
        )
    try:
        with place.open("rb") as file:
            head = file.read(4096)
    except OSError as fault:
        raise InputError(f"{path}: {fault.strerror or fault}. Check input.path.") from None
    return _store_of_file(place, head)


def _store_of_file(path: Path, head: bytes) -> Store:
    if not head:
        raise InputError(f"{path}: the file is empty, expected training instances")
    if head.startswith(b"PAR1"):
        return Parquet(path)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{path}: UTF-16, expected UTF-8. Try: iconv -f UTF-16 -t UTF-8 {path.name} > utf8.jsonl")
    compression = {b"\x1f\x8b": ".gz", b"\x28\xb5": ".zst"}.get(head[:2], "")
    with suppress(OSError, EOFError, ValueError):
        start = _decompressed(io.BytesIO(head), compression).readline(4096) if compression else head
        if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
            raise InputError(f"{path}: one JSON array, expected JSON Lines. Try: jq -c '.[]' {path.name} > lines.jsonl")
    return JsonLines(path, compression)


def _is_hub_id(path: str) -> bool:
    parts = path.split("/")
    plain = all(part.replace("-", "").replace("_", "").replace(".", "").isalnum() for part in parts)
    return len(parts) == 2 and plain and not path.endswith((".jsonl", ".json", ".parquet", ".gz", ".zst"))


def _decompressed(file: BinaryIO, compression: str) -> BinaryIO:
    if compression == ".gz":
        return gzip.GzipFile(fileobj=file, mode="rb")  # type: ignore[return-value]
    if compression == ".zst":
        import zstandard

        reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True, closefd=False)
        return io.BufferedReader(reader)
    return file


def _json_row(number: int, raw: bytes) -> Row:
    line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as fault:
        record, problem = _lenient(line, str(fault))
        if problem:
            return Row(number, line.decode(errors="backslashreplace").rstrip("\r\n"), problem=problem)
    if not isinstance(record, dict):
        return Row(number, record, problem="not a JSON object")
    return Row(number, record, raw)


def _lenient(line: bytes, problem: str) -> tuple[Any, str | None]:
    """What Python's json reads and orjson refuses (NaN), as long as it can be written back as UTF-8."""
    try:
        text = line.decode()
    except UnicodeDecodeError as fault:
        return None, f"not UTF-8: byte {line[fault.start]:#04x} at column {fault.start + 1}"
    try:
        record = json.loads(text)
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return None, "not text: half of a surrogate pair stands alone"
    except (ValueError, RecursionError):
        return None, f"not JSON: {problem}"
    return record, None


def _dumps_like(record: Record, raw: bytes | None) -> bytes:
    """The record as JSON with the separators, escapes and line ending of `raw`; plain UTF-8 without a model."""
    if raw is None:
        return json.dumps(record, ensure_ascii=False).encode() + b"\n"
    compact = b'": ' not in raw and b'":' in raw
    line = json.dumps(
        record,
        ensure_ascii=b"\\u" in raw and raw.isascii(),
        separators=(",", ":") if compact else (", ", ": "),
    ).encode()
    return line + raw[len(raw.rstrip(b"\r\n")) :]


def _file_identity(paths: list[Path]) -> tuple[int, str]:
    digest, size = sha256(), 0
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
                size += len(block)
    return size, digest.hexdigest()
