"""BEIR: qrels name the positives, a run names the candidates, and the cleaned set is such a folder again."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relabel.errors import InputError
from relabel.formats import open_source
from relabel.records import Passage, Quarantined
from tests.formats.shared import (
    ACTIONS,
    acted,
    check_round_trip,
    instances,
    line,
    on_disk,
    refused,
    rewritten,
    sides,
    write,
)

HEADER = "query-id\tcorpus-id\tscore\n"
QRELS = "q1\td1\t1\nq1\td4\t0\nq2\td2\t2\n"
RUN = "q1 Q0 d3 1 0.9 bm25\nq1 Q0 d1 2 0.8 bm25\nq1 Q0 d4 3 0.7 bm25\nq2 Q0 d1 1 0.5 bm25\n"


def beir(
    folder: Path, qrels: str = HEADER + QRELS, run: str = RUN, corpus: bytes = b"", queries: bytes = b"", docs: int = 4
) -> Path:
    (folder / "qrels").mkdir(parents=True)
    passages = [{"_id": f"d{n}", "title": f"title {n}", "text": f"text {n}", "url": "x"} for n in range(1, docs + 1)]
    write(folder / "corpus.jsonl", *map(line, passages), corpus)
    write(folder / "queries.jsonl", *[line({"_id": f"q{n}", "text": f"query {n}"}) for n in (1, 2, 3)], queries)
    (folder / "qrels" / "train.tsv").write_bytes(qrels.encode())
    (folder / "run.trec").write_bytes(run.encode())
    return folder


def texts(folder: Path) -> tuple[str, str]:
    return (folder / "qrels" / "train.tsv").read_bytes().decode(), (folder / "run.trec").read_bytes().decode()


def test_reads_positives_from_the_qrels_and_candidates_from_the_run(tmp_path: Path) -> None:
    first, second = instances(open_source(str(beir(tmp_path / "set"))))
    assert (first.query_id, first.query, first.subset, first.line) == ("q1", "query 1", "set", 2)
    assert first.positives == (Passage("d1", "title 1", "text 1"),)
    assert first.negatives == (Passage("d3", "title 3", "text 3", 0.9), Passage("d4", "title 4", "text 4", 0.7))
    assert sides(second) == ("query 2", ["text 2"], ["text 1"])


@pytest.mark.parametrize(
    ("qrels", "run"),
    [
        (HEADER + QRELS, RUN),
        (QRELS, RUN),
        ((HEADER + QRELS).replace("\n", "\r\n"), RUN.replace("\n", "\r\n")),
        ("q1 0 d1 1\nq2 0 d2 1\n", RUN.replace(" ", "\t")),
        ("q1\td1\nq2\td2\n", RUN),
    ],
    ids=["with header", "without", "crlf", "trec", "two columns"],
)
def test_an_unchanged_set_keeps_every_line(tmp_path: Path, qrels: str, run: str) -> None:
    rewritten(beir(tmp_path / "set", qrels, run), tmp_path / "out")
    assert texts(tmp_path / "out") == (qrels, run)
    for name in ("corpus.jsonl", "queries.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "set" / name).read_bytes()


@pytest.mark.parametrize(
    ("qrels", "added"),
    [
        (HEADER + QRELS, "q1\td3\t1\n"),
        ("q1 0 d1 1\r\nq2 0 d2 1\r\n", "q1 0 d3 1\r\n"),
        ("q1\td1\nq2\td2\n", "q1\td3\n"),
    ],
)
def test_a_relabelled_candidate_stands_in_the_qrels_as_its_neighbours_do(
    tmp_path: Path, qrels: str, added: str
) -> None:
    rewritten(beir(tmp_path / "set", qrels), tmp_path / "out", "relabel", "drop")
    written, run = texts(tmp_path / "out")
    assert added in written
    assert [found.split()[2] for found in run.splitlines() if found.startswith("q1")] == ["d1"]


def test_a_relabelled_candidate_is_no_longer_judged_irrelevant(tmp_path: Path) -> None:
    first, _ = instances(rewritten(beir(tmp_path / "set"), tmp_path / "out", "keep", "relabel"))
    assert sides(first) == ("query 1", ["text 1", "text 4"], ["text 3"])
    assert texts(tmp_path / "out")[0] == HEADER + "q1\td1\t1\nq1\td4\t1\nq2\td2\t2\n"


def test_a_removed_instance_leaves_no_line(tmp_path: Path) -> None:
    source = open_source(str(beir(tmp_path / "set")))
    sink = source.sink(tmp_path / "out")
    _, second = instances(source)
    sink.write(acted(second))
    sink.close()
    assert texts(tmp_path / "out") == (HEADER + "q2\td2\t2\n", "q2 Q0 d1 1 0.5 bm25\n")


@pytest.mark.parametrize(
    ("qrels", "run", "line", "reason"),
    [
        ("q1\td1\t1\nq3\td9\t1\n", "", 2, "passage 'd9' is not in corpus.jsonl"),
        ("q1\td1\t1\n", "q1 Q0 d9 1 0.5 t\n", 1, "passage 'd9' is not in corpus.jsonl"),
        ("q1\td1\t1\nq9\td1\t1\n", "", 2, "query 'q9' is not in queries.jsonl"),
        ("q1\td1\t1\n", "q1 Q0 d2 1 1 t\nq3 Q0 d1 1 1 t\n", 2, "no positive passage"),
        ("q1\td1\t1\nq3\td1\t0\n", "", 2, "no positive passage"),
        ("q1\td1\t1\nq3\n", "", 2, "train.tsv: expected query-id, corpus-id and a whole number; found 'q3'"),
        ("q1\td1\t1\nq3\td1\thigh\n", "", 2, "found 'q3\\td1\\thigh'"),
        (f"q1\td1\t1\nq3\td1\t{10**30}\n", "", 2, "train.tsv: expected"),
        ("q1\td1\t1\n", "q1 Q0 d2 1\n", 1, "run.trec: expected query-id Q0 corpus-id rank score tag"),
        ("q1\td1\t1\n", "\nq1 Q0 d2 1 high t\n", 2, "run.trec: expected query-id Q0"),
    ],
)
def test_what_cannot_be_used_is_refused_with_line_and_reason(
    tmp_path: Path, qrels: str, run: str, line: int, reason: str
) -> None:
    source = open_source(str(beir(tmp_path / "set", qrels, run)))
    (fault,) = refused(source)
    assert fault.line == line
    assert reason in fault.reason


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (b"{broken\n", "not JSON"),
        (b"[1]\n", "a list, expected a JSON object"),
        (b'{"title": ""}\n', "_id is missing"),
        (b'{"_id": null}\n', "_id is null"),
        (b'{"_id": "d\xe9"}\n', "not UTF-8"),
    ],
)
def test_a_faulty_line_of_corpus_or_queries_is_refused(tmp_path: Path, found: bytes, reason: str) -> None:
    faults = refused(open_source(str(beir(tmp_path / "set", corpus=found, queries=found))))
    assert [(fault.line, fault.reason.split(": ")[0]) for fault in faults] == [
        (5, "corpus.jsonl"),
        (4, "queries.jsonl"),
    ]
    assert all(reason in fault.reason for fault in faults)


@pytest.mark.parametrize(
    ("passage", "reason"),
    [
        ({"_id": "d5", "text": ""}, "positive 1 has no text"),
        ({"_id": "d5", "text": 5}, "passage 'd5': text is a number, expected a string"),
        ({"_id": "d5", "text": "t", "title": []}, "passage 'd5': title is a list, expected a string"),
    ],
)
def test_a_faulty_passage_is_refused_with_the_query_that_needs_it(
    tmp_path: Path, passage: dict[str, object], reason: str
) -> None:
    folder = beir(tmp_path / "set", "q1\td5\t1\nq2\td2\t1\n", corpus=line(passage))
    source = open_source(str(folder))
    assert refused(source) == [Quarantined(1, reason, {"query_id": "q1"})]


def test_bytes_that_are_not_utf_8_are_refused_alone(tmp_path: Path) -> None:
    folder = beir(tmp_path / "set")
    with (folder / "qrels" / "train.tsv").open("ab") as file:
        file.write(b"q\xe9\td1\t1\n")
    good_and_bad = list(open_source(str(folder)))
    assert [record.line for record in good_and_bad if isinstance(record, Quarantined)] == [5]
    assert len(good_and_bad) == 3


def test_a_byte_order_mark_and_whole_numbers_as_ids_are_understood(tmp_path: Path) -> None:
    folder = beir(tmp_path / "set", "\ufeff" + HEADER + "1\t2\t1\n", "1 Q0 3 1 0.5 t\n")
    write(folder / "corpus.jsonl", b"\xef\xbb\xbf", line({"_id": 2, "text": "p"}), line({"_id": 3, "text": "n"}))
    write(folder / "queries.jsonl", b"\xef\xbb\xbf", line({"_id": 1, "text": "q"}))
    assert [sides(found) for found in instances(open_source(str(folder)))] == [("q", ["p"], ["n"])]


def without_run(folder: Path) -> None:
    (folder / "run.trec").unlink()


def with_two_splits(folder: Path) -> None:
    (folder / "qrels" / "train.tsv").rename(folder / "qrels" / "dev.tsv")
    (folder / "qrels" / "test.tsv").write_text("")


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (without_run, {}, "name one with input.run"),
        (lambda folder: None, {"run": "other.trec"}, "other.trec: no such run file"),
        (lambda folder: None, {"run": "r" * 300}, "no such run file"),
        (lambda folder: None, {"split": "dev"}, "dev.tsv: no such file; input.split names"),
        (lambda folder: None, {"split": "s" * 300}, "no such file; input.split names"),
        (with_two_splits, {}, "found dev, test, expected train.tsv"),
        (lambda folder: (folder / "corpus.jsonl").unlink(), {"format": "beir"}, "not a BEIR folder"),
    ],
)
def test_a_folder_that_lacks_something_is_an_error_that_says_what(
    tmp_path: Path, change: Callable[[Path], None], options: dict[str, str], message: str
) -> None:
    folder = beir(tmp_path / "set")
    change(folder)
    with pytest.raises(InputError, match=message):
        open_source(str(folder), **options)


def test_a_reading_that_is_broken_off_leaves_no_file_open(tmp_path: Path) -> None:
    reading = iter(open_source(str(beir(tmp_path / "set"))))
    next(reading)
    del reading
    gc.collect()


@on_disk
@given(st.data())
def test_what_is_written_is_what_was_decided(data: st.DataObject) -> None:
    docs = st.lists(st.integers(1, 9), min_size=1, max_size=6)
    marked = {query: (data.draw(docs), data.draw(docs)) for query in ("q1", "q2", "q3")}
    qrels = "".join(f"{query}\td{doc}\t1\n" for query, (judged, _) in marked.items() for doc in judged)
    run = "".join(f"{query} Q0 d{doc} 1 0.5 t\n" for query, (_, mined) in marked.items() for doc in mined)
    with tempfile.TemporaryDirectory() as at:
        source = open_source(str(beir(Path(at) / "set", HEADER + qrels, run, docs=9)))
        check_round_trip(source, lambda: data.draw(ACTIONS), Path(at) / "out", "beir", ordered=True)


def test_other_splits_come_along_untouched(tmp_path: Path) -> None:
    folder = beir(tmp_path / "set")
    (folder / "qrels" / "dev.tsv").write_text(HEADER + "q3\td1\t1\n", encoding="utf-8")
    rewritten(folder, tmp_path / "out", "keep", "relabel")
    assert (tmp_path / "out" / "qrels" / "dev.tsv").read_text(encoding="utf-8") == HEADER + "q3\td1\t1\n"
