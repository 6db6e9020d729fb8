"""A real vLLM with a tiny model judges real text, served and in process, and what is killed is no loss."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest

import relabel
from relabel.config import Config
from relabel.ledger import Ledger
from relabel.runs import Summary
from relabel.testing import ReplyServer
from tests.conftest import SHARED, tevatron
from tests.engines.conftest import CONTEXT, MODEL, PYTHON, Serve, Served
from tests.planted import plant

pytestmark = pytest.mark.vllm

PROMPTS = {
    "graded": ["0", "1", "2", "3", "abstained"],
    "answer-snippet": ["answer", "no_answer", "abstained"],
    "answer-ranking": ["above", "below", "unproven", "abstained"],
    "versus-positive": ["better", "worse", "equal", "irrelevant", "abstained"],
    "rlhn": None,
}
DERIVED = ("cleaned.jsonl", "decisions.parquet", "quarantine.jsonl")
ENGINE = {
    "kind": "vllm",
    "model": str(MODEL),
    "python": str(PYTHON),
    "dtype": "float32",
    "max_model_len": CONTEXT,
    "engine_args": {"enforce_eager": True},
    "concurrency": 64,
}


# No seed is sent: on the CPU, vLLM 0.32 dies of one whose prompt comes in parts.
def cascade(client: str, **judge: Any) -> list[dict[str, Any]]:
    """Every built-in prompt about every candidate."""
    tiers = []
    for prompt, passed_on in PROMPTS.items():
        given = {"prompt": prompt, "model": "tiny", "client": client, "max_tokens": 400, "context": CONTEXT, **judge}
        escalate = {"escalate": {"labels": passed_on}} if passed_on else {}
        tiers.append({"name": prompt, "judge": given, **escalate})
    return tiers


def config(source: Path, folder: Path, client: dict[str, Any], **changes: Any) -> Config:
    given = {
        "input": {"path": str(source)},
        "clients": {"gpu": client},
        "cascade": cascade("gpu", temperature=1.0, retries=0),
        "policy": {"relabel": ["better"]},
        "budget": {"abstained": None},
        "output": {"dir": str(folder)},
        **changes,
    }
    return Config.model_validate(given)


def start(given: Config) -> Summary:
    return relabel.run(given, say=lambda _: None)


def derived(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in DERIVED}


def parsed(folder: Path) -> tuple[int, int, int]:
    """Of the replies under a schema: how many came to their end, how many of these parse, how many were cut off."""
    whole = sound = cut = 0
    keys = {
        key
        for row in pq.read_table(folder / "decisions.parquet").to_pylist()
        for verdict in json.loads(row["verdicts"])
        for key in [verdict.get("key")]
        if key and not verdict["judge"].startswith("rlhn")
    }
    with Ledger(folder) as ledger:
        for key in keys:
            reply = ledger.get(key)
            assert reply is not None
            cut += reply.finish_reason == "length"
            if reply.finish_reason == "stop":
                whole += 1
                sound += isinstance(json.loads(reply.text), dict)  # noise may hold half of a surrogate pair
    return whole, sound, cut


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """Instances of real text, or made-up ones where there is none."""
    path = tmp_path / "train.jsonl"
    labelled = SHARED / "labels" / "mediqa2019.jsonl.gz"
    records = plant(labelled, most=200).records if labelled.exists() else [tevatron(n) for n in range(200)]
    for record in records:
        record["negative_passages"] = record["negative_passages"][:2]
        for passage in (*record["positive_passages"], *record["negative_passages"]):
            passage["text"] = passage["text"][:1000]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


class TestEveryPrompt:
    def test_is_judged_by_a_server_and_in_process_and_the_same_replies_give_the_same_decisions(
        self, real: Path, served: Served, tmp_path: Path
    ) -> None:
        by_server, in_process = tmp_path / "server", tmp_path / "engine"
        assert start(config(real, by_server, {"kind": "vllm", "base_url": served.url})).report is not None
        assert start(config(real, in_process, ENGINE)).report is not None
        for folder in (by_server, in_process):
            whole, sound, cut = parsed(folder)
            print(f"{folder.name}: {whole} whole replies in JSON, {sound} parse, {cut} were cut off")
            assert whole == sound > 500
            contexts = Ledger(folder).contexts()
            assert {one["engine"].split()[0] for one in contexts if one["engine"]} == {"vllm"}
        again = config(real, tmp_path / "again", ENGINE, ledger={"read": [str(by_server)]})
        summary = start(again)
        assert summary.progress.replied == 0
        assert derived(tmp_path / "again") == derived(by_server)


class TestServer:
    def test_that_is_killed_and_comes_back_costs_nothing_but_time(self, serve: Serve, tmp_path: Path) -> None:
        source = tmp_path / "train.jsonl"
        source.write_text("".join(json.dumps(tevatron(n)) + "\n" for n in range(60)), encoding="utf-8")
        server = serve()
        server.wait()
        (tmp_path / "my.yaml").write_bytes(
            orjson.dumps(config(source, tmp_path / "run", {"kind": "vllm", "base_url": server.url}).model_dump())
        )
        process = begin(tmp_path)
        wait_for(lambda: stored(tmp_path / "run") > 30)
        server.kill()
        serve(port=server.port).wait()
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
        assert " is down" in said
        assert "answers again" in said
        assert relabel.run(tmp_path / "my.yaml", say=print).unchanged

    def test_one_of_two_that_is_killed_leaves_the_rest_to_the_other(
        self, served: Served, serve: Serve, tmp_path: Path
    ) -> None:
        source = tmp_path / "train.jsonl"
        source.write_text("".join(json.dumps(tevatron(n)) + "\n" for n in range(60)), encoding="utf-8")
        other = serve()
        other.wait()
        both = {"kind": "vllm", "base_url": [served.url, other.url]}
        (tmp_path / "my.yaml").write_bytes(orjson.dumps(config(source, tmp_path / "run", both).model_dump()))
        process = begin(tmp_path)
        wait_for(lambda: stored(tmp_path / "run") > 30)
        other.kill()
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said


class TestEngine:
    def test_models_take_turns(self, tmp_path: Path) -> None:
        source = tmp_path / "train.jsonl"
        source.write_text("".join(json.dumps(tevatron(n)) + "\n" for n in range(20)), encoding="utf-8")
        judges = [
            {"prompt": "graded", "model": name, "client": name, "context": CONTEXT} for name in ("cheap", "strong")
        ]
        given = config(
            source,
            tmp_path / "run",
            ENGINE,
            clients={"cheap": ENGINE, "strong": {**ENGINE, "concurrency": 8}},
            cascade=[
                {"name": "first", "judge": judges[0], "escalate": {"labels": ["0", "1", "2", "3"]}},
                {"name": "second", "judge": judges[1]},
            ],
            policy={"relabel": ["3"]},
        )
        said: list[str] = []
        summary = relabel.run(given, say=said.append)
        assert summary.report is not None
        assert [one["replies"] for one in summary.report["spent"]] == [60, 60]
        assert sum("starting vLLM" in words for words in said) == 2

    def test_is_the_cheap_tier_before_a_server_that_is_the_strong_one(self, tmp_path: Path) -> None:
        source = tmp_path / "train.jsonl"
        source.write_text("".join(json.dumps(tevatron(n)) + "\n" for n in range(20)), encoding="utf-8")
        cheap = {"prompt": "graded", "model": "tiny", "client": "gpu", "context": CONTEXT}
        strong = {"prompt": "versus-positive", "model": "large", "client": "api"}
        with ReplyServer(lambda _: '{"verdict": "better", "evidence": "Candidate"}') as server:
            summary = start(
                config(
                    source,
                    tmp_path / "run",
                    ENGINE,
                    clients={"gpu": ENGINE, "api": {"kind": "openai", "base_url": server.url}},
                    cascade=[
                        {"name": "first", "judge": cheap, "escalate": {"labels": ["0", "1", "2", "3"]}},
                        {"name": "second", "judge": strong},
                    ],
                )
            )
            assert server.asked == {"large": 60}
        assert summary.report is not None
        assert summary.report["candidates"]["relabel"] == 60

    def test_does_not_outlive_a_run_that_is_killed(self, tmp_path: Path) -> None:
        source = tmp_path / "train.jsonl"
        source.write_text("".join(json.dumps(tevatron(n)) + "\n" for n in range(60)), encoding="utf-8")
        (tmp_path / "my.yaml").write_bytes(orjson.dumps(config(source, tmp_path / "run", ENGINE).model_dump()))
        process = begin(tmp_path)
        wait_for(lambda: stored(tmp_path / "run") > 10)
        (host,) = children(process.pid)
        process.kill()
        process.communicate()
        wait_for(lambda: not Path(f"/proc/{host}").exists(), seconds=60)
        kept = stored(tmp_path / "run")
        summary = relabel.run(tmp_path / "my.yaml", say=print)
        assert summary.report is not None
        assert sum(one["replies"] for one in summary.report["spent"]) == kept + summary.progress.replied


def begin(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "relabel", "run", "my.yaml"]
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def stored(folder: Path) -> int:
    try:
        with Ledger(folder) as ledger:
            return sum(one.replies for one in ledger.spent())
    except relabel.RelabelError:
        return 0


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(condition: Any, seconds: float = 180) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)
