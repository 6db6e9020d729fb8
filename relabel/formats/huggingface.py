"""Hugging Face datasets, saved on disk or streamed from the hub."""

from __future__ import annotations

from collections.abc import Iterator, Set
from hashlib import sha256
from pathlib import Path
from typing import Any

from relabel.errors import InputError
from relabel.formats.base import Record, Row, file_identity
from relabel.formats.parquet import BATCH, ParquetSink, SchemalessParquetSink, numbered_rows, readable, widened


class HuggingFaceDisk:
    """A dataset written by `Dataset.save_to_disk`, or one split of a saved `DatasetDict`."""

    suffix = ".hf"

    def __init__(self, path: Path, split: str | None) -> None:
        import datasets

        try:
            loaded = datasets.load_from_disk(str(path))
        except Exception as fault:  # whatever the library's many readers raise
            raise InputError(f"{path}: a saved dataset that cannot be loaded: {_brief(fault)}. Save it anew.") from None
        if isinstance(loaded, datasets.DatasetDict):
            loaded = _split(path, loaded, split)
        self.path = path
        self._dataset = loaded
        self._position = 0.0

    def rows(self, only: Set[int] | None = None) -> Iterator[Row]:
        """Read batch by batch from the memory-mapped files."""
        total = max(len(self._dataset), 1)
        with readable(self.path, "a saved dataset"):
            for row in numbered_rows(self.path, self._dataset.with_format("arrow").iter(BATCH), only):
                self._position = row.number / total
                yield row

    def fraction(self) -> float | None:
        """By rows."""
        return self._position

    def identity(self) -> tuple[int, str]:
        """Of the split's data files, in order."""
        return file_identity([Path(file["filename"]) for file in self._dataset.cache_files])

    def sink(self, path: Path, sides: tuple[str, str]) -> HuggingFaceSink:
        """With this dataset's features."""
        import datasets

        features = self._dataset.features
        schema = widened(features.arrow_schema, sides)
        if not schema.equals(features.arrow_schema):
            features = datasets.Features.from_arrow_schema(schema)
        return HuggingFaceSink(path, features, self._dataset.split)


class HuggingFaceSink:
    """Writes what `datasets.load_from_disk` reads, by way of an Arrow file beside it."""

    def __init__(self, path: Path, features: Any, split: Any) -> None:
        from datasets.arrow_writer import ArrowWriter

        self._path = path
        self._features = features
        self._split = split
        self._arrow = path.with_name(path.name + ".arrow")
        self._writer = ArrowWriter(path=str(self._arrow), features=features)
        self._records: list[Record] = []

    def write(self, row: Row) -> None:
        """Append a row."""
        self._records.append(row.content())
        if len(self._records) >= BATCH:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        self._writer.write_table(pa.Table.from_pylist(self._records, schema=self._features.arrow_schema))
        self._records = []

    def close(self) -> None:
        """Turn the Arrow file into a saved dataset, its fingerprint taken from the content."""
        import datasets
        from datasets.table import MemoryMappedTable

        if self._records:
            self._flush()
        self._writer.finalize()
        self._writer.close()
        _, content = file_identity([self._arrow])
        dataset = datasets.Dataset(
            MemoryMappedTable.from_file(str(self._arrow)),
            info=datasets.DatasetInfo(features=self._features),
            split=self._split,
            fingerprint=content[:16],
        )
        datasets.disable_progress_bars()
        dataset.save_to_disk(str(self._path), num_shards=None if len(dataset) else 1)  # none could not be loaded
        self._arrow.unlink()


class HuggingFaceHub:
    """A dataset on the hub, streamed. The cleaned set is written as Parquet."""

    suffix = ".parquet"

    def __init__(self, name: str, config: str | None, split: str | None, revision: str | None) -> None:
        import datasets

        self._where = f"{name}@{revision}" if revision else name
        try:
            self._builder = datasets.load_dataset_builder(name, config, revision=revision)
            self._dataset = self._builder.as_streaming_dataset(split=split or "train")
        except Exception as fault:  # network, hub and every builder, each with errors of its own
            raise InputError(
                f"{self._where}: neither a file here nor a dataset that the hub gave us ({_brief(fault)}). Check "
                "input.path, input.name and input.split."
            ) from None

    def rows(self, only: Set[int] | None = None) -> Iterator[Row]:
        """As they arrive."""
        number, records = 0, iter(self._dataset)
        while True:
            try:
                record = next(records)
            except StopIteration:
                return
            except Exception as fault:  # as above
                message = f"{self._where}: the hub stopped after row {number}: {_brief(fault)}. Run again to go on."
                raise InputError(message) from None
            number += 1
            if only is None or number in only:
                yield Row(number, record)

    def fraction(self) -> float | None:
        """Nobody knows how much is still to come."""
        return None

    def identity(self) -> tuple[int, str]:
        """Of the split's file names and of the commit they are taken from; the size is not known (0)."""
        split = self._dataset.split
        files = (self._builder.config.data_files or {}).get(split)
        parts = [self._where, self._builder.config.name, str(split), *(files or ())]
        parts += [str(origin) for origin in (files.origin_metadata if files else ())]
        return 0, sha256("\n".join(parts).encode()).hexdigest()

    def sink(self, path: Path, sides: tuple[str, str]) -> ParquetSink | SchemalessParquetSink:
        """With the dataset's features, where the hub told them."""
        features = self._dataset.features
        return ParquetSink(path, widened(features.arrow_schema, sides)) if features else SchemalessParquetSink(path)


def _split(path: Path, loaded: Any, split: str | None) -> Any:
    """The split asked for, else `train`, else the only one."""
    name = split or ("train" if "train" in loaded else next(iter(loaded), ""))
    if name not in loaded or (split is None and name != "train" and len(loaded) > 1):
        raise InputError(
            f"{path}: holds the splits {', '.join(loaded)}; say which one with input.split"
            + (f" (found {split!r})" if split else "")
        )
    return loaded[name]


def _brief(fault: Exception) -> str:
    lines = str(fault).splitlines()
    return f"{type(fault).__name__}: {lines[0] if lines else 'no message'}"
