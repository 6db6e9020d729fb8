"""sentence-transformers: the four layouts of its training sets and of `mine_hard_negatives`.

triplet       `{anchor, positive, negative}`                 one negative a row
n-tuple       `{anchor, positive, negative_1, negative_2 …}` several negatives a row
labeled-pair  `{anchor, passage, label}`                     one passage a row, label 1 or 0
labeled-list  `{anchor, passages, labels}`                   all passages in one row

Columns may bear other names: the first column named `anchor`, `query`, `question` or `sentence1` (else simply the
first) is the anchor, and likewise for the positive. Consecutive rows with the same anchor are one instance, in which
a passage that stands in several rows counts once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from relabel.formats.base import (
    Record,
    RecordError,
    Repeats,
    Row,
    check_positives,
    instance_id,
    kind_of,
    optional_text,
    text_id,
    want_list,
    want_text,
    without,
)
from relabel.records import Instance, Passage, Quarantined

_ANCHORS = ("anchor", "query", "question", "sentence1")
_PASSAGES = (
    *("positive", "answer", "passage", "document", "text", "sentence2"),
    *("passages", "documents", "docs", "texts", "answers"),
)
_LABELS = ("labels", "label")
_NUMBERED = re.compile(r"negative_(\d+)")


@dataclass(frozen=True, slots=True)
class Parsed:
    """One row's share of an instance: its anchor, and (text, whether it is a positive) for each of its passages."""

    row: Row
    anchor: str
    passages: tuple[tuple[str, bool], ...]
    subset: str


class SentenceTransformers:
    """Reads all four layouts; writes a set back in the layout it came in."""

    name = "sentence-transformers"

    def __init__(self, layout: str) -> None:
        self.layout = layout
        self.needs_negatives = layout in ("triplet", "n-tuple")
        self._parse, self._revise, self._compose = _LAYOUTS[layout]

    def recognises(self, record: Mapping[str, Any]) -> bool:
        """Whether the record has this very layout."""
        return layout_of(record) == self.layout

    def read(self, rows: Iterable[Row], subset: str) -> Iterator[Instance | Quarantined]:
        """One instance for each stretch of rows with the same anchor; a faulty row is quarantined alone."""
        repeats = Repeats()
        group: list[Parsed] = []
        for row in rows:
            try:
                parsed = self._parse(row)
            except RecordError as fault:
                yield Quarantined(row.number, str(fault), row.record)
                continue
            if group and group[0].anchor != parsed.anchor:
                yield _instance(group, subset, repeats)
                group = []
            group.append(parsed)
        if group:
            yield _instance(group, subset, repeats)
        repeats.close()

    def revise(self, instance: Instance, relabelled: Sequence[int], dropped: Sequence[int]) -> Iterator[Row]:
        """See the layout's own function."""
        texts = [passage.text for passage in instance.negatives]
        moved = {texts[place] for place in relabelled}
        gone = {texts[place] for place in dropped} - moved
        kept = [text for text in texts if text not in moved and text not in gone]
        return self._revise(instance, Change(tuple(texts[place] for place in relabelled), gone, tuple(kept)))

    def compose(self, instance: Instance) -> Iterator[Record]:
        """The instance in this layout, under the library's own column names."""
        return self._compose(instance)


@dataclass(frozen=True, slots=True)
class Change:
    """The texts that move to the positives, those that go, and the negatives that stay, in order."""

    relabelled: tuple[str, ...]
    dropped: set[str]
    kept: tuple[str, ...]


def layout_of(record: Mapping[str, Any]) -> str | None:
    """Which of the four layouts a record has, if any."""
    label = next((name for name in _LABELS if name in record), None)
    if label is not None:
        if _anchor(record) is None:
            return None
        return "labeled-list" if isinstance(record[label], list) else "labeled-pair"
    if _anchor(record) is None or _positive(record) is None:
        return None
    if "negative" in record:
        return "triplet"
    return "n-tuple" if any(_NUMBERED.fullmatch(name) for name in record) else None


def _instance(group: list[Parsed], subset: str, repeats: Repeats) -> Instance | Quarantined:
    sides: dict[bool, dict[str, Passage]] = {True: {}, False: {}}
    for parsed in group:
        for text, positive in parsed.passages:
            sides[positive].setdefault(text, Passage(text_id("", text), "", text))
    positives, negatives = tuple(sides[True].values()), tuple(sides[False].values())
    first = group[0]
    try:
        check_positives(positives)
    except RecordError as fault:
        return Quarantined(first.row.number, str(fault), [parsed.row.record for parsed in group])
    query_id = repeats.name(instance_id(first.anchor, positives))
    origin = tuple(parsed.row.light() for parsed in group)
    return Instance(first.row.number, query_id, first.anchor, positives, negatives, first.subset or subset, origin)


def _anchor(record: Mapping[str, Any]) -> str | None:
    named = next((name for name in _ANCHORS if name in record), None)
    return named or next((name for name in record if name not in _LABELS and name != "subset"), None)


def _positive(record: Mapping[str, Any]) -> str | None:
    named = next((name for name in _PASSAGES if name in record), None)
    anchor = _anchor(record)
    others = (name for name in record if name not in (*_LABELS, "negative", "subset", anchor))
    return named or next((name for name in others if not _NUMBERED.fullmatch(name)), None)


def _columns(record: Mapping[str, Any]) -> tuple[str, str]:
    anchor, positive = _anchor(record), _positive(record)
    if anchor is None or positive is None:
        raise RecordError(f"columns are {', '.join(record) or 'none'}, expected an anchor and a positive")
    return anchor, positive


def _text(record: Mapping[str, Any], column: str) -> str:
    value = record.get(column)
    if not isinstance(value, str):
        raise RecordError(f"{column} is {kind_of(value) if column in record else 'missing'}, expected a string")
    return value


def _negatives(record: Mapping[str, Any]) -> list[str]:
    numbers = sorted(int(found[1]) for name in record if (found := _NUMBERED.fullmatch(name)))
    return ["negative"] if "negative" in record else [f"negative_{number}" for number in numbers]


def _parse_tuple(row: Row) -> Parsed:
    record = row.parsed()
    anchor, positive = _columns(record)
    columns = _negatives(record)
    if not columns:
        raise RecordError("negative is missing")
    passages = [(_text(record, positive), True)]
    passages += [(_text(record, column), False) for column in columns]
    return Parsed(row, want_text(record, anchor), tuple(passages), optional_text(record, "subset"))


def _revise_triplets(instance: Instance, change: Change) -> Iterator[Row]:
    """Rows whose negative stays are untouched. Of the others, those go whose positive stands elsewhere too.

    A positive that would be lost with its row, and every relabelled passage, is paired with a negative that stays.
    """
    rows = [(row, row.fresh()) for row in instance.origin]
    _, positive = _columns(rows[0][1])
    kept = set(change.kept)
    standing = {record[positive] for _, record in rows if record["negative"] in kept}
    partners = cycle(change.kept)
    for row, record in rows:
        if record["negative"] in kept:
            yield row
            continue
        wanted = [record[positive]]
        if record["negative"] in change.relabelled:
            wanted.append(record["negative"])
        for text in wanted:
            if text not in standing and change.kept:
                standing.add(text)
                yield row.rewritten({**record, positive: text, "negative": next(partners)})


def _revise_tuples(instance: Instance, change: Change) -> Iterator[Row]:
    """A relabelled passage gets a row of its own. Rows keep their width: negatives that stay fill the gaps."""
    kept = set(change.kept)
    standing: set[str] = set()
    for row in instance.origin:
        record = row.fresh()
        _, positive = _columns(record)
        columns = _negatives(record)
        stay = [record[column] for column in columns if record[column] in kept] or list(change.kept)
        if not stay:
            return
        partners = cycle(stay)
        filled = dict(zip(columns, [next(partners) for _ in columns], strict=True))
        moved = [record[c] for c in columns if record[c] in change.relabelled and record[c] not in standing]
        if all(record[column] in kept for column in columns):
            yield row
        else:
            yield row.rewritten({**record, **filled})
        for text in dict.fromkeys(moved):
            standing.add(text)
            yield row.rewritten({**record, positive: text, **filled})


def _parse_pair(row: Row) -> Parsed:
    record = row.parsed()
    anchor, passage = _columns(record)
    column = _label_column(record)
    label, text = _label(record[column], column), _text(record, passage)
    return Parsed(row, want_text(record, anchor), ((text, label),), optional_text(record, "subset"))


def _revise_pairs(instance: Instance, change: Change) -> Iterator[Row]:
    """A relabelled passage's label turns to 1; a dropped passage's rows go."""
    standing: set[str] = set()
    for row in instance.origin:
        record = row.fresh()
        _, passage = _columns(record)
        column = _label_column(record)
        text = record[passage]
        if record[column] or (text not in change.relabelled and text not in change.dropped):
            yield row
        elif text in change.relabelled and text not in standing:
            standing.add(text)
            yield row.rewritten({**record, column: type(record[column])(1)})


def _parse_list(row: Row) -> Parsed:
    record = row.parsed()
    anchor, passage = _columns(record)
    column = _label_column(record)
    texts, labels = want_list(record, passage), want_list(record, column)
    if len(texts) != len(labels):
        raise RecordError(f"{column} has {len(labels)} values, expected {len(texts)}, one for each of {passage}")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise RecordError(f"{passage}[{number}] is {kind_of(text)}, expected a string")
    marked = [_label(label, f"{column}[{number}]") for number, label in enumerate(labels)]
    pairs = tuple(zip(texts, marked, strict=True))
    return Parsed(row, want_text(record, anchor), pairs, optional_text(record, "subset"))


def _revise_lists(instance: Instance, change: Change) -> Iterator[Row]:
    """Labels turn to 1 in place; a dropped passage goes, with its place in every list that runs parallel."""
    standing: set[str] = set()
    for row in instance.origin:
        record = row.fresh()
        _, passage = _columns(record)
        column = _label_column(record)
        texts, labels = record[passage], list(record[column])
        gone = []
        for place, text in enumerate(texts):
            if labels[place]:
                continue
            if text in change.dropped or (text in change.relabelled and text in standing):
                gone.append(place)
            elif text in change.relabelled:
                standing.add(text)
                labels[place] = type(labels[place])(1)
        if not gone and labels == record[column]:
            yield row
            continue
        record[column] = labels
        for name, value in record.items():
            if isinstance(value, list) and len(value) == len(texts):
                record[name] = without(value, gone)
        yield row.rewritten(record)


def _label_column(record: Mapping[str, Any]) -> str:
    column = next((name for name in _LABELS if name in record), None)
    if column is None:
        raise RecordError("label is missing")
    return column


def _label(value: object, where: str) -> bool:
    if isinstance(value, (bool, int, float)) and value in (0, 1):
        return bool(value)
    shown = value if isinstance(value, (int, float)) else kind_of(value)
    raise RecordError(f"{where} is {shown}, expected 0 or 1")


def _compose_triplets(instance: Instance) -> Iterator[Record]:
    for positive in instance.positives:
        for negative in instance.negatives:
            yield _record(instance, positive=_whole(positive), negative=_whole(negative))


def _compose_tuples(instance: Instance) -> Iterator[Record]:
    negatives = {f"negative_{number}": _whole(p) for number, p in enumerate(instance.negatives, 1)}
    if negatives:
        for positive in instance.positives:
            yield _record(instance, positive=_whole(positive), **negatives)


def _compose_pairs(instance: Instance) -> Iterator[Record]:
    for label, passages in ((1, instance.positives), (0, instance.negatives)):
        for passage in passages:
            yield _record(instance, passage=_whole(passage), label=label)


def _compose_lists(instance: Instance) -> Iterator[Record]:
    texts = [_whole(passage) for passage in (*instance.positives, *instance.negatives)]
    labels = [1] * len(instance.positives) + [0] * len(instance.negatives)
    yield _record(instance, passages=texts, labels=labels)


def _record(instance: Instance, **columns: Any) -> Record:
    subset = {"subset": instance.subset} if instance.subset else {}
    return {"anchor": instance.query, **columns, **subset}


def _whole(passage: Passage) -> str:
    return f"{passage.title} {passage.text}" if passage.title else passage.text


_Layout = tuple[
    Callable[[Row], Parsed],
    Callable[[Instance, Change], Iterator[Row]],
    Callable[[Instance], Iterator[Record]],
]
_LAYOUTS: dict[str, _Layout] = {
    "triplet": (_parse_tuple, _revise_triplets, _compose_triplets),
    "n-tuple": (_parse_tuple, _revise_tuples, _compose_tuples),
    "labeled-pair": (_parse_pair, _revise_pairs, _compose_pairs),
    "labeled-list": (_parse_list, _revise_lists, _compose_lists),
}
LAYOUTS = tuple(_LAYOUTS)
