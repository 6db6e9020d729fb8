"""sentence-transformers: the four layouts of its training sets and of `mine_hard_negatives`.

triplet       `{anchor, positive, negative}`                 one negative a row
n-tuple       `{anchor, positive, negative_1, negative_2 …}` several negatives a row
labeled-pair  `{anchor, passage, label}`                     one passage a row, label 1 or 0
labeled-list  `{anchor, passages, labels}`                   all passages in one row

Columns may bear other names: the first column named `anchor`, `query`, `question` or `sentence1` (else simply the
first) is the anchor, and likewise for the positive. Consecutive rows with the same anchor are one instance, in which
a passage that stands in several rows counts once; so sort a shuffled set by its anchor first.

What a change does: labels turn to 1 in place, and rows of dropped passages go. In triplets a relabelled passage becomes
the positive of a row with a negative that stays, and no positive is lost with its row. In n-tuples it gets a row of its
own, and gaps are filled with negatives that stay, since the width is fixed. An instance that keeps no negative cannot
be written as either; it is removed, under the rule `format-needs-negatives`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import cycle, islice
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
_NUMBERED = re.compile(r"negative_(\d{1,9})")


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
    sides = ("positive", "negative")
    one_row = False

    def __init__(self, layout: str) -> None:
        self.layout = layout
        self.needs_negatives = layout in ("triplet", "n-tuple")
        self._parse, self._revise, self._compose = _LAYOUTS[layout]

    def recognises(self, record: Mapping[str, Any]) -> bool:
        """Whether the record has this very layout."""
        return layout_of(record) == self.layout

    def read(self, rows: Iterable[Row], subset: str) -> Iterator[Instance | Quarantined]:
        """One instance for each stretch of rows with the same anchor; a faulty row is quarantined alone."""
        with closing(Repeats()) as repeats:
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

    def revise(self, instance: Instance, relabelled: Sequence[int], dropped: Sequence[int]) -> Iterator[Row]:
        """See the layout's own function."""
        texts = [passage.text for passage in instance.negatives]
        moved, gone = {texts[place] for place in relabelled}, {texts[place] for place in dropped}
        return self._revise(instance, Change(moved, gone, set(texts) - moved - gone))

    def compose(self, instance: Instance) -> Iterator[Record]:
        """The instance in this layout, under the library's own column names."""
        return self._compose(instance)


@dataclass(frozen=True, slots=True)
class Change:
    """The texts that move to the positives, those that go, and the negatives that stay."""

    relabelled: set[str]
    dropped: set[str]
    kept: set[str]


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
    anchor = _anchor(record)
    named = next((name for name in _PASSAGES if name in record and name != anchor), None)
    others = (name for name in record if name not in (*_LABELS, "negative", "subset", anchor))
    return named or next((name for name in others if not _NUMBERED.fullmatch(name)), None)


def _columns(record: Mapping[str, Any]) -> tuple[str, str]:
    anchor, positive = _anchor(record), _positive(record)
    if anchor is None or positive is None:
        raise RecordError(f"columns are {', '.join(record) or 'none'}, expected an anchor and a positive")
    return anchor, positive


def _parallel(record: Mapping[str, Any], length: int) -> dict[str, list[Any]]:
    return {name: value for name, value in record.items() if isinstance(value, list) and len(value) == length}


def _text(record: Mapping[str, Any], column: str) -> str:
    value = record.get(column)
    if not isinstance(value, str):
        raise RecordError(f"{column} is {kind_of(value) if column in record else 'missing'}, expected a string")
    return value


def _negatives(record: Mapping[str, Any]) -> list[str]:
    numbers = {name: int(found[1]) for name in record if (found := _NUMBERED.fullmatch(name))}
    return ["negative"] if "negative" in record else sorted(numbers, key=numbers.__getitem__)


def _parse_tuple(row: Row) -> Parsed:
    """Where rows are of unequal length, the shorter ones are filled up with null."""
    record = row.parsed()
    anchor, positive = _columns(record)
    columns = [name for name in _negatives(record) if name == "negative" or record[name] is not None]
    if not columns:
        raise RecordError("negative is missing")
    passages = [(_text(record, positive), True)]
    passages += [(_text(record, column), False) for column in columns]
    return Parsed(row, want_text(record, anchor), tuple(passages), optional_text(record, "subset"))


@dataclass(frozen=True, slots=True)
class Slot:
    """A passage of a row, with its value in each list of scores: the positive's is the first there."""

    text: str | None
    beside: Mapping[str, Any]


def _scores(record: Record, length: int) -> list[str]:
    return [name for name in _parallel(record, length) if "score" in name]


def _slots(record: Record) -> list[Slot]:
    columns = [_columns(record)[1], *_negatives(record)]
    lists = _scores(record, len(columns))
    return [Slot(record[name], {key: record[key][place] for key in lists}) for place, name in enumerate(columns)]


def _filled(record: Record, slots: Sequence[Slot]) -> Record:
    """The record with these passages in place of its own."""
    columns = [_columns(record)[1], *_negatives(record)]
    texts = {name: slot.text for name, slot in zip(columns, slots, strict=True)}
    lists = {name: [slot.beside.get(name) for slot in slots] for name in _scores(record, len(columns))}
    return {**record, **texts, **lists}


def _revise_tuples(instance: Instance, change: Change) -> Iterator[Row]:
    """Rows whose negatives all stay are untouched; in the others, negatives that stay fill the gaps.

    A relabelled passage gets a row of its own. A row that loses all its negatives goes if its positive stands
    elsewhere; if not, it takes negatives from the instance's other rows.
    """
    rows = [(row, record, _slots(record)) for row in instance.origin for record in [row.fresh()]]
    stay = {slot.text: slot for _, _, slots in rows for slot in slots[1:] if slot.text in change.kept}
    standing = {slots[0].text for _, _, slots in rows if any(slot.text in stay for slot in slots[1:])}
    others = cycle(stay.values())
    for row, record, (positive, *negatives) in rows:
        if all(slot.text in stay or slot.text is None for slot in negatives):
            yield row
            continue
        here = [slot for slot in negatives if slot.text in stay]
        partners = cycle(here) if here else others
        moved = {slot.text: slot for slot in negatives if slot.text in change.relabelled}
        wanted = [positive] if here or positive.text not in standing else []
        wanted += [slot for text, slot in moved.items() if text not in standing]
        for slot in wanted if stay else ():
            standing.add(slot.text)
            yield row.rewritten(_filled(record, [slot, *islice(partners, len(negatives))]))


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
        elif len(gone) < len(texts):
            lists = _parallel({**record, column: labels}, len(texts))
            yield row.rewritten({**record, **{name: without(value, gone) for name, value in lists.items()}})


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
    "triplet": (_parse_tuple, _revise_tuples, _compose_triplets),
    "n-tuple": (_parse_tuple, _revise_tuples, _compose_tuples),
    "labeled-pair": (_parse_pair, _revise_pairs, _compose_pairs),
    "labeled-list": (_parse_list, _revise_lists, _compose_lists),
}
LAYOUTS = tuple(_LAYOUTS)
