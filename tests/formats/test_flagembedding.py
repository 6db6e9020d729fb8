"""FlagEmbedding: passages are strings, and take along what stands in the lists beside them."""

from __future__ import annotations

import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from relabel.formats import open_source
from relabel.formats.base import Row, instance_id, text_id
from relabel.formats.flagembedding import FlagEmbedding
from relabel.records import Instance
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
    write,
)


def record(query: str = "q", pos: str = "p", neg: str = "ab", **extra: Any) -> dict[str, Any]:
    return {"query": query, "pos": list(pos), "neg": list(neg), **extra}


def one(path: Path, found: dict[str, Any]) -> Instance:
    (instance,) = instances(open_source(str(write(path / "set", line(found)))))
    return instance


def revised(path: Path, found: dict[str, Any], *actions: Any) -> dict[str, Any]:
    rewritten(write(path / "set", line(found)), path / "out", *actions)
    (written,) = lines(path / "out")
    return written


def test_reads_texts_and_scores(tmp_path: Path) -> None:
    found = one(tmp_path, record(pos_scores=[3], neg_scores=[0.5, None], subset="nq"))
    assert [(p.text, p.score) for p in (*found.positives, *found.negatives)] == [("p", 3.0), ("a", 0.5), ("b", None)]
    assert found.subset == "nq"


def test_makes_ids_of_texts_and_tells_repeats_apart(tmp_path: Path) -> None:
    path = write(tmp_path / "set", line(record(neg="aba")), line(record("other")), line(record()), line(record()))
    first, other, again, third = instances(open_source(str(path)))
    assert [p.docid for p in first.negatives] == [text_id("", "a"), text_id("", "b"), text_id("", "a") + "-2"]
    assert first.query_id == instance_id("q", first.positives)
    assert [again.query_id, third.query_id] == [first.query_id + "-2", first.query_id + "-3"]
    assert len(other.query_id) == 32


def test_ids_are_the_first_half_of_the_sha256_of_compact_json(tmp_path: Path) -> None:
    found = one(tmp_path, record("é", "p", "漢"))
    assert found.negatives[0].docid == sha256('["","漢"]'.encode()).hexdigest()[:32]
    assert found.query_id == sha256('["é",[["","p"]]]'.encode()).hexdigest()[:32]


@given(st.permutations(range(5)), st.integers(0, 5))
def test_neither_the_order_of_rows_nor_one_row_more_changes_an_id(order: list[int], place: int) -> None:
    def ids(queries: list[str]) -> dict[str, str]:
        rows = [Row(number, record(query)) for number, query in enumerate(queries, 1)]
        found = FlagEmbedding().read(rows, "")
        return {instance.query: instance.query_id for instance in found if isinstance(instance, Instance)}

    shuffled = [f"q{number}" for number in order]
    more = ids([*shuffled[:place], "one more", *shuffled[place:]])
    assert {**ids([f"q{number}" for number in range(5)]), "one more": more["one more"]} == more


def test_a_relabelled_passage_takes_its_score_and_all_parallel_values_along(tmp_path: Path) -> None:
    before = record(pos_scores=[9], neg_scores=[1, 2.5], pos_id=["i"], neg_id=["j", "k"], prompt="P", type="t")
    after = record(
        "q", "pb", "", pos_scores=[9, 2.5], neg_scores=[], pos_id=["i", "k"], neg_id=[], prompt="P", type="t"
    )
    assert revised(tmp_path, before, "drop", "relabel") == after


@pytest.mark.parametrize("missing", [{}, {"neg_scores": None}, {"neg_x": [1], "pos_x": [5], "neg_scores": None}])
def test_lists_of_positives_stay_parallel_where_the_negatives_have_none(
    tmp_path: Path, missing: dict[str, Any]
) -> None:
    written = revised(tmp_path, record(pos_scores=[9], **missing), "relabel")
    assert written["pos_scores"] == [9, None]
    assert len(written.get("pos_x", "pa")) == len(written["pos"])


def test_lists_that_do_not_run_parallel_are_left_alone(tmp_path: Path) -> None:
    other: dict[str, Any] = {"pos_tags": ["x", "y"], "neg_tags": ["x"], "positions": [1], "negated": [1, 2]}
    written = revised(tmp_path, record(**other), "relabel", "drop")
    assert {name: written[name] for name in other} == other


def test_empty_score_lists_of_an_instance_without_negatives_pass_through(tmp_path: Path) -> None:
    assert one(tmp_path, record(neg="", pos_scores=[1], neg_scores=[])).negatives == ()


@on_disk
@given(composed(), st.data())
def test_what_is_written_is_what_was_decided(made: list[Instance], data: st.DataObject) -> None:
    check_composed(made, data, "flagembedding")


@on_disk
@given(st.data())
def test_a_record_with_any_lists_beside_its_passages_is_accepted_again_after_a_change(data: st.DataObject) -> None:
    values = st.none() | st.lists(st.none() | st.integers(-3, 3) | st.floats(), max_size=3)
    beside = st.dictionaries(st.sampled_from(["pos_scores", "neg_scores", "pos_x", "neg_x"]), values)
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "set", line({**record(neg="abc"), **data.draw(beside)}))
        source = open_source(str(path))
        assume(all(isinstance(found, Instance) for found in source))
        check_round_trip(source, lambda: data.draw(ACTIONS), Path(folder) / "out", "flagembedding", ordered=True)
