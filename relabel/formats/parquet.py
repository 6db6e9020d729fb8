"""Parquet: rows have no bytes of their own; a file's schema is kept, widened where a passage may change sides."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterable, Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from relabel.errors import InputError
from relabel.formats.base import Record, Row, file_identity

BATCH = 512


class Parquet:
    """A Parquet file."""

    suffix = ".parquet"

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self.path = path
        self._position = 0.0
        with readable(path, "Parquet"):
            self._schema = pq.read_schema(path)
        if twice := {name for name in self._schema.names if self._schema.names.count(name) > 1}:
            raise InputError(f"{path}: several columns are named {', '.join(sorted(twice))}; give each its own name")

    def rows(self, only: Set[int] | None = None) -> Iterator[Row]:
        """Read batch by batch."""
        import pyarrow.parquet as pq

        with readable(self.path, "Parquet"), pq.ParquetFile(self.path) as file:
            total = max(file.metadata.num_rows, 1)
            for row in numbered_rows(self.path, file.iter_batches(BATCH), only):
                self._position = row.number / total
                yield row

    def fraction(self) -> float | None:
        """By rows."""
        return self._position

    def identity(self) -> tuple[int, str]:
        """Of the file as it lies on disk."""
        return file_identity([self.path])

    def sink(self, path: Path, sides: tuple[str, str]) -> ParquetSink:
        """With this file's schema."""
        return ParquetSink(path, widened(self._schema, sides))


class ParquetSink:
    """Writes row groups of bounded size."""

    def __init__(self, path: Path, schema: Any) -> None:
        import pyarrow.parquet as pq

        self._schema = schema
        self._writer = pq.ParquetWriter(path.absolute(), schema, compression="zstd")
        self._records: list[Record] = []

    def write(self, row: Row) -> None:
        """Append a row."""
        self._records.append(row.content())
        if len(self._records) >= BATCH:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        self._writer.write_table(pa.Table.from_pylist(self._records, schema=self._schema))
        self._records = []

    def close(self) -> None:
        """Write what is left, and the footer."""
        if self._records:
            self._flush()
        self._writer.close()


class SchemalessParquetSink:
    """Keeps rows in a temporary file until the last one is known, for only then is the schema."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self._path = path
        self._schema = pa.schema([])
        self._spool = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        self._records: list[Record] = []

    def write(self, row: Row) -> None:
        """Append a row."""
        self._records.append(row.content())
        if len(self._records) >= BATCH:
            self._set_aside()

    def _set_aside(self) -> None:
        import pyarrow as pa

        names = dict.fromkeys(name for record in self._records for name in record)
        batch = pa.table({name: [record.get(name) for record in self._records] for name in names})
        self._schema = pa.unify_schemas([self._schema, batch.schema], promote_options="permissive")
        pickle.dump(self._records, self._spool)
        self._records = []

    def close(self) -> None:
        """Write the file."""
        self._set_aside()
        sink = ParquetSink(self._path, self._schema)
        with self._spool as spool:
            end = spool.tell()
            spool.seek(0)
            while spool.tell() < end:
                for record in pickle.load(spool):
                    sink.write(Row(0, record))
        sink.close()


def widened(schema: Any, sides: tuple[str, str]) -> Any:
    """The schema with room on the positive side for all that a relabelled passage brings along.

    `sides` are what the names of positive and of negative columns begin with; columns with the same rest are a pair.
    """
    import pyarrow as pa

    positive, negative = sides
    before = schema
    for field in before:
        place = schema.get_field_index(positive + field.name.removeprefix(negative))
        if not field.name.startswith(negative) or place < 0:
            continue
        pair = [pa.schema([schema.field(place)]), pa.schema([field.with_name(schema.field(place).name)])]
        try:
            both = pa.unify_schemas(pair, promote_options="permissive").field(0)
        except pa.ArrowTypeError:
            raise InputError(
                f"{schema.field(place).name} holds {schema.field(place).type}, but {field.name} holds {field.type}; "
                "passages cannot move between them. Give both the same type."
            ) from None
        if both.type != schema.field(place).type:
            schema = schema.set(place, both)
    # What Hugging Face noted about the columns describes the old ones.
    return schema if schema.equals(before) else schema.with_metadata(None)


def numbered_rows(path: Path, batches: Iterable[Any], only: Set[int] | None = None) -> Iterator[Row]:
    """The rows of a file's batches, or the wanted ones among them. Raises InputError for what Python cannot hold."""
    number = 0
    for batch in batches:
        if only is not None and only.isdisjoint(range(number + 1, number + len(batch) + 1)):
            number += len(batch)
            continue
        try:
            records = batch.to_pylist()
        except Exception as fault:  # each type of column fails in its own way
            rows, why = f"rows {number + 1} to {number + len(batch)}", _at_fault(batch) or fault
            raise InputError(f"{path}: {rows}: {why}. Leave that column out, or cast it.") from None
        for record in records:
            number += 1
            if only is None or number in only:
                yield Row(number, record)


def _at_fault(batch: Any) -> str | None:
    """The first column that cannot be read, and why."""
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            column.to_pylist()
        except Exception as fault:  # as above
            return f"{name} cannot be read: {fault}"
    return None


@contextmanager
def readable(path: Path, expected: str) -> Iterator[None]:
    """What Arrow finds damaged is an InputError."""
    import pyarrow as pa

    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as fault:
        raise InputError(f"{path}: damaged, expected {expected}: {fault}. Check the file, or copy it anew.") from None
