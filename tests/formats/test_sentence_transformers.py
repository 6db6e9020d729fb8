"""sentence-transformers: rows with the same anchor are one instance, in each of the four layouts."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from relabel.formats import open_source
from relabel.formats.base import text_id
from relabel.formats.sentence_transformers import LAYOUTS, layout_of
from relabel.records import Action, Instance, Quarantined
from tests.formats.shared import (
    ACTIONS,
    check_composed,
    check_round_trip,
    composed,
    instances,
    line,
    lines,
    on_disk,
    rewritten,
    sides,
    write,
)

NEEDS = {layout: int(layout in ("triplet", "n-tuple")) for layout in LAYOUTS}
LETTERS = st.sampled_from("abcdef")


def triplet(anchor: str, positive: str, negative: str, **extra: Any) -> dict[str, Any]:
    return {"anchor": anchor, "positive": positive, "negative": negative, **extra}


def n_tuple(anchor: str, positive: str, *negatives: str | None, **extra: Any) -> dict[str, Any]:
    named = {f"negative_{number}": text for number, text in enumerate(negatives, 1)}
    return {"anchor": anchor, "positive": positive, **named, **extra}


def pair(anchor: str, passage: str, label: float, **extra: Any) -> dict[str, Any]:
    return {"anchor": anchor, "passage": passage, "label": label, **extra}


def listed(anchor: str, passages: str, labels: list[Any], **extra: Any) -> dict[str, Any]:
    return {"anchor": anchor, "passages": list(passages), "labels": labels, **extra}


def revised(path: Path, records: list[dict[str, Any]], *actions: Action) -> list[dict[str, Any]]:
    rewritten(write(path / "set", *map(line, records)), path / "out", *actions)
    return lines(path / "out")


@pytest.mark.parametrize(
    "rows",
    [
        [triplet("q", "p", "a"), triplet("q", "p", "b"), triplet("q", "p", "a")],
        [n_tuple("q", "p", "a", "b")],
        [n_tuple("q", "p", "a", None), n_tuple("q", "p", "b", "a")],
        [pair("q", "p", 1), pair("q", "a", 0), pair("q", "b", 0.0)],
        [listed("q", "pab", [1, 0, False])],
        [{"question": "q", "answer": "p", "negative": "a"}, {"question": "q", "answer": "p", "negative": "b"}],
        [{"claim": "q", "evidence": "p", "negative_2": "b", "negative_1": "a"}],
        [{"text": "q", "document": "p", "negative_1": "a", "negative_10": "b"}],
        [{"query": "q", "docs": ["a", "p", "b"], "labels": [0, 1, 0], "scores": [1, 2, 3]}],
    ],
)
def test_consecutive_rows_with_the_same_anchor_are_one_instance(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    (found,) = instances(open_source(str(write(tmp_path / "set", *map(line, rows)))))
    assert sides(found) == ("q", ["p"], ["a", "b"])
    assert [p.docid for p in found.negatives] == [text_id("", "a"), text_id("", "b")]


def test_an_anchor_that_comes_back_later_is_another_instance_with_an_id_of_its_own(tmp_path: Path) -> None:
    rows = [triplet("q", "p", "a"), triplet("r", "p", "a"), triplet("q", "p", "b")]
    first, other, second = instances(open_source(str(write(tmp_path / "set", *map(line, rows)))))
    assert (first.line, other.line, second.line) == (1, 2, 3)
    assert second.query_id == first.query_id + "-2"


def test_a_faulty_row_is_refused_alone(tmp_path: Path) -> None:
    rows = [triplet("q", "p", "a"), {**triplet("q", "p", "a"), "negative": 3}, triplet("q", "p", "b")]
    bad, good = open_source(str(write(tmp_path / "set", *map(line, rows))))
    assert bad == Quarantined(2, "negative is a number, expected a string", rows[1])
    assert isinstance(good, Instance)
    assert len(good.negatives) == 2


def test_an_instance_without_positives_is_refused_with_all_its_rows(tmp_path: Path) -> None:
    rows = [pair("q", "a", 0), pair("q", "b", 0), pair("r", "p", 1)]
    bad, good = open_source(str(write(tmp_path / "set", *map(line, rows))))
    assert bad == Quarantined(1, "no positive passage", rows[:2])
    assert isinstance(good, Instance)


@pytest.mark.parametrize(
    ("record", "layout"),
    [
        (triplet("q", "p", "a"), "triplet"),
        (n_tuple("q", "p", "a"), "n-tuple"),
        (pair("q", "p", 1), "labeled-pair"),
        (listed("q", "p", [1]), "labeled-list"),
        ({"sentence1": "q", "sentence2": "p", "label": 1}, "labeled-pair"),
        ({"anchor": "q", "positive": "p"}, None),
        ({"label": 1}, None),
        ({}, None),
    ],
)
def test_tells_the_layout_by_the_columns(record: dict[str, Any], layout: str | None) -> None:
    assert layout_of(record) == layout


def test_a_relabelled_passage_of_a_triplet_is_paired_with_a_negative_that_stays(tmp_path: Path) -> None:
    rows = [triplet("q", "p", text, id=number) for number, text in enumerate("abc")]
    assert revised(tmp_path, rows, "relabel", "drop") == [triplet("q", "a", "c", id=0), rows[2]]


def test_a_positive_that_loses_its_row_stands_again_beside_another_negative(tmp_path: Path) -> None:
    rows = [triplet("q", "p", "a"), triplet("q", "r", "b")]
    assert revised(tmp_path, rows, "drop") == [triplet("q", "p", "b"), rows[1]]


def test_a_tuple_keeps_its_width_and_a_relabelled_passage_gets_a_row(tmp_path: Path) -> None:
    rows = [n_tuple("q", "p", "a", "b", "c", id=7), n_tuple("r", "p", "a", "b", "c")]
    written = revised(tmp_path, rows, "relabel")
    assert written == [n_tuple("q", "p", "b", "c", "b", id=7), n_tuple("q", "a", "c", "b", "c", id=7), rows[1]]


def test_scores_in_a_row_move_with_their_passages(tmp_path: Path) -> None:
    rows = [n_tuple("q", "p", "a", "b", scores=[9, 1, 2], tags=["x", "y", "z"])]
    assert revised(tmp_path, rows, "relabel") == [
        n_tuple("q", "p", "b", "b", scores=[9, 2, 2], tags=["x", "y", "z"]),
        n_tuple("q", "a", "b", "b", scores=[1, 2, 2], tags=["x", "y", "z"]),
    ]


def test_scores_of_triplets_move_with_their_passages(tmp_path: Path) -> None:
    rows = [triplet("q", "p", "a", score=[9.5, 1]), triplet("q", "p", "b", score=[9.5, 2])]
    assert revised(tmp_path, rows, "relabel") == [triplet("q", "a", "b", score=[1, 2]), rows[1]]


@pytest.mark.parametrize(("zero", "one"), [(0, 1), (0.0, 1.0), (False, True)])
def test_the_label_of_a_pair_turns_and_keeps_its_type(tmp_path: Path, zero: float, one: float) -> None:
    rows = [pair("q", "p", one), pair("q", "a", zero, score=0.5), pair("q", "b", zero), pair("q", "a", zero)]
    written = revised(tmp_path, rows, "relabel", "drop")
    assert written == [rows[0], {**rows[1], "label": one}]
    assert type(written[1]["label"]) is type(one)


def test_labels_of_a_list_turn_in_place_and_dropped_passages_take_their_scores_with_them(tmp_path: Path) -> None:
    rows = [listed("q", "apbca", [0, 1, 0, 0, 0], scores=[1, 2, 3, 4, 5], id="x")]
    written = revised(tmp_path, rows, "relabel", "drop")
    assert written == [listed("q", "apc", [1, 1, 0], scores=[1, 2, 4], id="x")]


def test_no_empty_list_is_left_behind(tmp_path: Path) -> None:
    rows = [listed("q", "pa", [1, 0]), listed("q", "b", [0])]
    assert revised(tmp_path, rows, "keep", "drop") == rows[:1]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_tuples_need_negatives(tmp_path: Path, layout: str) -> None:
    path = write(tmp_path / "set", b"{}\n")
    assert open_source(str(path), format=f"sentence-transformers:{layout}").needs_negatives == bool(NEEDS[layout])


@pytest.mark.parametrize("layout", LAYOUTS)
@on_disk
@given(data=st.data())
def test_what_is_written_is_what_was_decided(layout: str, data: st.DataObject) -> None:
    made = data.draw(composed(NEEDS[layout]))
    check_composed(made, data, f"sentence-transformers:{layout}", ordered=not NEEDS[layout])


def rows_of(layout: str) -> st.SearchStrategy[dict[str, Any]]:
    anchors, width = st.sampled_from("qr"), 3
    lists = st.lists(st.tuples(LETTERS, st.integers(0, 1)), min_size=1, max_size=6)
    return {
        "triplet": st.builds(triplet, anchors, LETTERS, LETTERS),
        "n-tuple": st.builds(n_tuple, anchors, LETTERS, *[LETTERS] * (width - 1), LETTERS | st.none()),
        "labeled-pair": st.builds(pair, anchors, LETTERS, st.integers(0, 1)),
        "labeled-list": st.builds(
            lambda anchor, marked: listed(anchor, "".join(t for t, _ in marked), [label for _, label in marked]),
            anchors,
            lists,
        ),
    }[layout]


@pytest.mark.parametrize("layout", LAYOUTS)
@on_disk
@given(data=st.data())
def test_rows_that_repeat_passages_and_mix_sides_come_back_as_decided(layout: str, data: st.DataObject) -> None:
    rows, name = data.draw(st.lists(rows_of(layout), min_size=1, max_size=6)), f"sentence-transformers:{layout}"
    with tempfile.TemporaryDirectory() as folder:
        source = open_source(str(write(Path(folder) / "set", *map(line, rows))), format=name)
        queries = [found.query for found in source if isinstance(found, Instance)]
        # Where an instance between two with the same anchor is refused or removed, the two become one.
        assume(len(set(queries)) == len(list(source)))
        check_round_trip(source, lambda: data.draw(ACTIONS), Path(folder) / "out", name, ordered=False)
