"""Every preset finds what was planted: over a real HTTP server that answers from human labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from relabel.runs import run
from relabel.testing import LabelledJudge, ReplyServer
from tests.conftest import SHARED
from tests.planted import Planted, plant

PRESETS = ("rlhn", "arhn", "answer-cascade")


@pytest.fixture(params=["mediqa2019", "selqa_dev"])
def planted(request: pytest.FixtureRequest) -> Planted:
    path = SHARED / "labels" / f"{request.param}.jsonl.gz"
    if not path.is_file():
        pytest.skip("the labelled sets are not beside this checkout")
    return plant(path, most=60)


def cleaned(preset: str, planted: Planted, judge: LabelledJudge, folder: Path) -> list[dict[str, Any]]:
    with ReplyServer(judge) as server:
        source = planted.write(folder / "train.jsonl")
        overrides = [f"input.path={source}", f"clients.openai.base_url={server.url}"]
        report = run(preset, overrides=overrides, output=folder / "run", say=lambda message: None).report
    assert report is not None
    rows: list[dict[str, Any]] = pq.read_table(folder / "run" / "decisions.parquet").to_pylist()
    counts = report["candidates"]
    assert counts["in"] == len(rows) == counts["relabel"] + counts["drop"] + counts["keep"]
    for tier in report["tiers"].values():
        assert tier["candidates"] == sum(tier["labels"].values()) + sum(tier["abstained"].values())
    return rows


def found(rows: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(row["query_id"], row["docid"]) for row in rows if row["action"] != "keep"}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_perfect_judge_finds_all_that_is_planted_and_nothing_else(
    preset: str, planted: Planted, tmp_path: Path
) -> None:
    assert found(cleaned(preset, planted, planted.judge(), tmp_path)) == planted.planted


@pytest.mark.parametrize("preset", PRESETS)
def test_spoilt_replies_decide_nothing_wrongly_and_what_is_lost_to_them_abstains(
    preset: str, planted: Planted, tmp_path: Path
) -> None:
    rows = cleaned(preset, planted, planted.judge(malformed=0.2), tmp_path)
    assert found(rows) <= planted.planted
    by_query = {(row["query_id"], row["docid"]): row for row in rows}
    for missed in planted.planted - found(rows):
        verdicts = json.loads(by_query[missed]["verdicts"])
        assert by_query[missed]["rule"] == "undecided" or any("abstained" in verdict for verdict in verdicts)


def test_evidence_stands_in_the_passage_at_its_offset(planted: Planted, tmp_path: Path) -> None:
    rows = cleaned("answer-cascade", planted, planted.judge(), tmp_path)
    texts = {
        (record["query_id"], passage["docid"]): passage["text"]
        for record in planted.records
        for passage in record["negative_passages"]
    }
    quoted = [(row, verdict) for row in rows for verdict in json.loads(row["verdicts"]) if "evidence" in verdict]
    assert quoted
    for row, verdict in quoted:
        text, offset = texts[row["query_id"], row["docid"]], verdict["offset"]
        assert text[offset : offset + len(verdict["evidence"])] == verdict["evidence"]


@pytest.mark.parametrize("confidence", [0.9, 0.6])
def test_the_probability_of_a_verdict_comes_through_to_its_decision(
    confidence: float, planted: Planted, tmp_path: Path
) -> None:
    rows = cleaned("answer-cascade", planted, planted.judge(confidence=confidence), tmp_path)
    for row in rows:
        verdicts = [verdict for verdict in json.loads(row["verdicts"]) if verdict.get("model") and "label" in verdict]
        for verdict in verdicts:
            assert (verdict["score"], verdict["score_kind"]) == (pytest.approx(confidence, abs=1e-4), "logprobs")
            assert verdict["outside"] == pytest.approx(0, abs=1e-4)
        if verdicts:
            assert row["score"] == pytest.approx(confidence, abs=1e-4)


def test_positives_have_a_table_of_their_own(tmp_path: Path) -> None:
    record = {
        "query_id": "q",
        "query": "where is it?",
        "positive_passages": [{"docid": f"p{n}", "title": "", "text": f"It is in drawer {n}."} for n in (1, 2)],
        "negative_passages": [{"docid": "n", "title": "", "text": "Nobody knows."}],
    }
    labels = {"where is it?": {"It is in drawer 1.": 1.0, "It is in drawer 2.": 0.0, "Nobody knows.": 0.0}}
    rows = cleaned("arhn", Planted([record], set(), labels), LabelledJudge(labels, relevant=1), tmp_path)
    assert [row["action"] for row in rows] == ["keep"]
    positives = pq.read_table(tmp_path / "run" / "positives.parquet").to_pylist()
    assert [(row["docid"], row["position"], row["label"], row["suspect"]) for row in positives] == [
        ("p1", 1, "answer", False),
        ("p2", 2, "no_answer", True),
    ]
    report = json.loads((tmp_path / "run" / "report.json").read_bytes())
    assert report["positives"] == {"judged": 2, "sound": 1, "suspect": 1, "abstained": 0, "unanswered": 0}
    assert report["subsets"][""]["suspect_positives"] == 1
