"""A model's screen within a run: what it measured is a reply in the ledger, free of charge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from relabel.config import Config
from relabel.estimate import estimate
from relabel.export import export_run
from relabel.folder import open_run
from relabel.runs import Summary, run
from relabel.testing import ReplyServer
from tests.conftest import settings, tevatron
from tests.test_run import finds_the_first
from tests.tiny_models import make_embedder

pytest.importorskip("sentence_transformers", reason="needs the extra `embed`")


@pytest.fixture
def config(write_jsonl: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Config]:
    model = make_embedder(tmp_path_factory.mktemp("model"))

    def make(url: str, **changes: Any) -> Config:
        given = settings(write_jsonl([tevatron(number) for number in range(1, 13)]), url, **changes)
        screen = {"screen": "embedding", "model": str(model)}
        tier = {"name": "closeness", "judge": screen, "escalate": {"labels": ["close", "clear", "abstained"]}}
        return Config.model_validate({**given, "cascade": [tier, *given["cascade"]]})

    return make


def ran(config: Config, folder: Path) -> Summary:
    return run(config, output=folder, say=lambda _: None)


def test_costs_nothing_and_counts_for_no_budget(config: Callable[..., Config], tmp_path: Path) -> None:
    price = {name: {"prompt": 1, "completion": 1} for name in ("small", "large")}
    with ReplyServer(finds_the_first) as server:
        report = ran(config(server.url, budget={"requests": 16, "usd": 5}, prices=price), tmp_path / "run").report
    assert report is not None
    assert server.asked.total() == 16
    assert report["usd"] is not None
    spent = {one["tier"]: (one["replies"], one["usd"]) for one in report["spent"]}
    assert spent["closeness"] == (12, 0.0)


def test_is_measured_once_and_then_needs_no_model(config: Callable[..., Config], tmp_path: Path) -> None:
    with ReplyServer(finds_the_first) as server:
        given = config(server.url)
        first = ran(given, tmp_path / "run")
    files = {name: (tmp_path / "run" / name).read_bytes() for name in ("cleaned.jsonl", "decisions.parquet")}
    model = Path(given.cascade[0].judge.model)  # type: ignore[union-attr]
    model.rename(model.with_name("gone"))
    (tmp_path / "run" / "vectors.sqlite").unlink()
    export_run(tmp_path / "run")
    assert {name: (tmp_path / "run" / name).read_bytes() for name in files} == files
    assert first.progress.tiers["closeness"].replied == 12
    assert ran(given, tmp_path / "run").unchanged


def test_what_it_measured_stands_in_the_decisions(config: Callable[..., Config], tmp_path: Path) -> None:
    with ReplyServer(finds_the_first) as server:
        ran(config(server.url), tmp_path / "run")
    row = pq.read_table(tmp_path / "run" / "decisions.parquet").to_pylist()[0]
    assert all(name in row["verdicts"] for name in ("to_query", "to_positives", "to_others", "of_positives"))


def test_an_estimate_lists_only_what_is_paid(config: Callable[..., Config], tmp_path: Path) -> None:
    found = estimate(open_run(config("http://127.0.0.1:9/v1")), None)
    assert [one.tier for one in found] == ["cheap", "strong"]
    assert found[0].calls == 12
