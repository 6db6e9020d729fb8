"""Labelled pairs: what every cheap judge said of a candidate, what the strong one said, and what a person did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from relabel.errors import InputError
from relabel.formats.storage import open_store

Name = tuple[str, str]
"""A pair's (query_id, docid)."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A candidate with its features before and after the strong judge. `finds` is what that judge's verdict alone says:
    None where it abstained. `relevant` is what a person says.
    """

    query_id: str
    docid: str
    cheap: Mapping[str, float]
    strong: Mapping[str, float]
    finds: bool | None
    relevant: bool
    subset: str = ""


@dataclass(slots=True)
class Pairs:
    """Labelled pairs with what else is known of their judges; `notes` say what was left out, and why.

    `cheap` and `strong` name the features that the judges can give, `judges` those of a run's tiers; `usd` is what a
    strong verdict costs.
    """

    pairs: list[Pair]
    strong_tier: str
    cheap: Sequence[str]
    strong: Sequence[str]
    judges: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    usd: float | None = None

    def __post_init__(self) -> None:
        self.pairs.sort(key=lambda pair: (pair.query_id, pair.docid))

    @property
    def subsets(self) -> dict[str, int]:
        """How many pairs there are of each subset."""
        return dict(sorted(Counter(pair.subset for pair in self.pairs).items()))


def read_labels(path: str, relevant: float) -> dict[Name, bool]:
    """Human labels by pair: whether the grade is `relevant` or more. Raises InputError with the line of a bad one."""
    found: dict[Name, tuple[float, int]] = {}
    for line, row in rows_of(path):
        grade = row.get("grade")
        if not is_number(grade):
            raise InputError(f"{path}, line {line}: grade is {grade!r}, expected a number")
        name = name_of(path, line, row)
        before, earlier = found.setdefault(name, (grade, line))
        if before != grade:
            raise InputError(
                f"{path}, line {line}: query {name[0]!r}, docid {name[1]!r} is labelled {grade:g} here and {before:g} "
                f"in line {earlier}; keep one"
            )
    if not found:
        raise InputError(f"{path}: holds no labels")
    return {name: grade >= relevant for name, (grade, _) in found.items()}


def rows_of(path: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The rows of a JSONL or Parquet file with their numbers. Raises InputError."""
    if not Path(path).is_file():
        known = "not a run's folder" if Path(path).is_dir() else "no such file or folder"
        raise InputError(f"{path}: {known}; expected JSON Lines or Parquet, or, for a pilot, the folder of its run")
    for row in open_store(path, name=None, split=None, revision=None).rows():
        if row.problem is not None:
            raise InputError(f"{path}, line {row.number}: {row.problem}")
        yield row.number, row.record


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a number that can be reckoned with."""
    return not isinstance(value, bool) and isinstance(value, (int, float)) and abs(value) <= 1e100


def name_of(path: str, line: int, row: Mapping[str, Any]) -> Name:
    """A row's (query_id, docid). Raises InputError."""
    for name in ("query_id", "docid"):
        if not isinstance(row.get(name), (str, int)) or isinstance(row.get(name), bool):
            found = ", ".join(map(str, row)) or "nothing"
            raise InputError(f"{path}, line {line}: {name} is {row.get(name)!r}, expected a text; the row has {found}")
    return str(row["query_id"]), str(row["docid"])


def count_unjudged(labels: Iterable[Name], pairs: Iterable[Pair]) -> int:
    """How many labels belong to no pair."""
    return len(set(labels) - {(pair.query_id, pair.docid) for pair in pairs})
