"""FlagEmbedding: one record an instance, passages as plain strings, scores in lists beside them.

`{query, pos: [text], neg: [text], pos_scores?: [number], neg_scores?: [number], prompt?, …}`
Any other pair of columns `pos_X`, `neg_X` whose lists run parallel to the passages (ids, say) is kept in step too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

from relabel.formats.base import (
    Record,
    RecordError,
    Repeats,
    Row,
    check_positives,
    instance_id,
    kind_of,
    numbered,
    optional_score,
    optional_text,
    text_id,
    want_list,
    want_text,
    without,
)
from relabel.records import Instance, Passage, Quarantined


class FlagEmbedding:
    """The layout of the FlagEmbedding toolkit and of the BGE training data."""

    name = "flagembedding"
    needs_negatives = False
    sides = ("pos", "neg")
    one_row = True

    def recognises(self, record: Mapping[str, Any]) -> bool:
        """A query beside `pos` or `neg`."""
        return "query" in record and ("pos" in record or "neg" in record)

    def read(self, rows: Iterable[Row], subset: str) -> Iterator[Instance | Quarantined]:
        """One instance a row; ids are made from the texts."""
        with closing(Repeats()) as repeats:
            for row in rows:
                try:
                    yield self._instance(row, subset, repeats)
                except RecordError as fault:
                    yield Quarantined(row.number, str(fault), row.record)

    def _instance(self, row: Row, subset: str, repeats: Repeats) -> Instance:
        record = row.parsed()
        query = want_text(record, "query")
        positives = _passages(record, "pos")
        negatives = _passages(record, "neg")
        check_positives(positives)
        named = optional_text(record, "subset")
        query_id = repeats.name(instance_id(query, positives))
        return Instance(row.number, query_id, query, positives, negatives, named or subset, row.light())

    def revise(self, instance: Instance, relabelled: Sequence[int], dropped: Sequence[int]) -> Iterator[Row]:
        """A passage takes its score, and whatever runs parallel to it, along; null where there is nothing to take."""
        record = instance.origin.fresh()
        positive, negative = _parallel(record, "pos"), _parallel(record, "neg")
        for rest, values in positive.items():
            beside = negative.get(rest)
            record["pos" + rest] = values + [beside[place] if beside else None for place in relabelled]
        for rest, values in negative.items():
            record["neg" + rest] = without(values, [*relabelled, *dropped])
        yield instance.origin.rewritten(record)

    def compose(self, instance: Instance) -> Iterator[Record]:
        """A title goes before its text, as FlagEmbedding's own data has it; scores where every passage has one."""
        record: Record = {"query": instance.query}
        for side, passages in (("pos", instance.positives), ("neg", instance.negatives)):
            record[side] = [f"{p.title} {p.text}" if p.title else p.text for p in passages]
        if all(p.score is not None for p in (*instance.positives, *instance.negatives)):
            record["pos_scores"] = [p.score for p in instance.positives]
            record["neg_scores"] = [p.score for p in instance.negatives]
        if instance.subset:
            record["subset"] = instance.subset
        yield record


def _passages(record: Mapping[str, Any], column: str) -> tuple[Passage, ...]:
    texts = want_list(record, column)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise RecordError(f"{column}[{number}] is {kind_of(text)}, expected a string")
    scores = record.get(f"{column}_scores")
    if scores is None:
        scores = [None] * len(texts)
    if not isinstance(scores, list) or len(scores) != len(texts):
        found = f"{len(scores)} values" if isinstance(scores, list) else kind_of(scores)
        raise RecordError(f"{column}_scores has {found}, expected {len(texts)}, one for each of {column}")
    docids = numbered(text_id("", text) for text in texts)
    return tuple(
        Passage(docid, "", text, optional_score(score, f"{column}_scores"))
        for docid, text, score in zip(docids, texts, scores, strict=True)
    )


def _parallel(record: Mapping[str, Any], side: str) -> dict[str, list[Any]]:
    """The side's passages (under "") and the lists that run parallel to them, by the rest of their names."""
    return {
        column.removeprefix(side): value
        for column, value in record.items()
        if (column == side or column.startswith(f"{side}_"))
        and isinstance(value, list)
        and len(value) == len(record[side])
    }
