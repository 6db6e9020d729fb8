"""What people say of candidates: files of labels, and the reviews of a run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from relabel.errors import InputError
from relabel.formats.storage import open_store

Name = tuple[str, str]
"""A pair's (query_id, docid)."""


def read_labels(path: str, relevant: float) -> dict[Name, bool]:
    """Human labels by pair: whether the grade is `relevant` or more. Raises InputError with the line of a bad one."""
    if not math.isfinite(relevant):
        raise InputError(f"the least grade of a relevant passage is {relevant}, expected a number")
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
    grades = [grade for grade, _ in found.values()]
    if max(grades) < relevant:
        raise InputError(
            f"{path}: no grade reaches {relevant:g}, from which on a passage is relevant; they run from "
            f"{min(grades):g} to {max(grades):g}"
        )
    return {name: grade >= relevant for name, (grade, _) in found.items()}


def read_reviews(path: Path) -> dict[Name, bool]:
    """What a run's reviews say, by pair: rows of `query_id, docid, relevant`, appended; the last one counts.

    Nothing if there are none. Raises InputError with the line of a bad one.
    """
    if not path.is_file() or not path.stat().st_size:
        return {}
    found: dict[Name, bool] = {}
    for line, row in rows_of(str(path)):
        if not isinstance(row.get("relevant"), bool):
            raise InputError(f"{path}, line {line}: relevant is {row.get('relevant')!r}, expected true or false")
        found[name_of(str(path), line, row)] = row["relevant"]
    return found


def rows_of(path: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The rows of a JSONL or Parquet file with their numbers. Raises InputError."""
    if not Path(path).is_file():
        known = "not a run's folder" if Path(path).is_dir() else "no such file or folder"
        raise InputError(f"{path}: {known}; expected a file of JSON Lines or Parquet")
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
