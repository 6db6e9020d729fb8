"""Tevatron: one record an instance, passages as objects with docid, title and text.

`{query_id, query, positive_passages: [{docid, title, text, …}], negative_passages: […], subset?, …}`
A relabelled passage moves whole behind the positives, a dropped one goes; all else of the record stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from relabel.formats.base import (
    Record,
    RecordError,
    Row,
    check_positives,
    kind_of,
    optional_score,
    optional_text,
    want_id,
    want_list,
    want_text,
    without,
)
from relabel.records import Instance, Passage, Quarantined


class Tevatron:
    """The layout of the Tevatron toolkit, and of the datasets published with RLHN."""

    name = "tevatron"
    needs_negatives = False
    sides = ("positive", "negative")
    one_row = True

    def recognises(self, record: Mapping[str, Any]) -> bool:
        """Both passage columns bear names of their own."""
        return "positive_passages" in record or "negative_passages" in record

    def read(self, rows: Iterable[Row], subset: str) -> Iterator[Instance | Quarantined]:
        """One instance a row."""
        for row in rows:
            try:
                yield self._instance(row, subset)
            except RecordError as fault:
                yield Quarantined(row.number, str(fault), row.record)

    def _instance(self, row: Row, subset: str) -> Instance:
        record = row.parsed()
        query_id = want_id(record, "query_id")
        query = want_text(record, "query")
        positives = _passages(record, "positive_passages")
        negatives = _passages(record, "negative_passages")
        check_positives(positives)
        named = optional_text(record, "subset")
        return Instance(row.number, query_id, query, positives, negatives, named or subset, row.light())

    def revise(self, instance: Instance, relabelled: Sequence[int], dropped: Sequence[int]) -> Iterator[Row]:
        """Passages move whole, with whatever else they carry."""
        record = instance.origin.fresh()
        negatives = record["negative_passages"]
        record["positive_passages"] += [negatives[place] for place in relabelled]
        record["negative_passages"] = without(negatives, [*relabelled, *dropped])
        yield instance.origin.rewritten(record)

    def compose(self, instance: Instance) -> Iterator[Record]:
        """All that an instance holds has a place here."""
        record: Record = {
            "query_id": instance.query_id,
            "query": instance.query,
            "positive_passages": [_compose(p) for p in instance.positives],
            "negative_passages": [_compose(p) for p in instance.negatives],
        }
        if instance.subset:
            record["subset"] = instance.subset
        yield record


def _passages(record: Mapping[str, Any], column: str) -> tuple[Passage, ...]:
    return tuple([_passage(found, column, number) for number, found in enumerate(want_list(record, column))])


def _passage(found: Any, column: str, number: int) -> Passage:
    if not isinstance(found, dict):
        raise RecordError(f"{column}[{number}] is {kind_of(found)}, expected an object with docid and text")
    docid, title, text, score = found.get("docid"), found.get("title"), found.get("text"), found.get("score")
    if score is None and docid and isinstance(docid, str) and isinstance(title, str) and isinstance(text, str):
        return Passage(docid, title, text)
    where = f"{column}[{number}]"
    if not isinstance(text, str):
        raise RecordError(f"{where}.text is {kind_of(text) if 'text' in found else 'missing'}, expected a string")
    return Passage(
        want_id(found, "docid", f"{where}."),
        optional_text(found, "title", f"{where}."),
        text,
        optional_score(score, f"{where}.score"),
    )


def _compose(passage: Passage) -> Record:
    record: Record = {"docid": passage.docid, "title": passage.title, "text": passage.text}
    if passage.score is not None:
        record["score"] = passage.score
    return record
