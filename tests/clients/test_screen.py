"""Real models, made here, answer the screens: together where they wait together, and each text once."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from relabel.clients.screen import VECTORS, ScreenClient
from relabel.config import ModelScreenSettings
from relabel.errors import RunStopped
from relabel.records import Reply, Request
from tests.tiny_models import make_cross_encoder, make_embedder

pytest.importorskip("sentence_transformers", reason="needs the extra `embed`")


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_embedder(tmp_path_factory.mktemp("models")))


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_cross_encoder(tmp_path_factory.mktemp("models")))


def request(
    *candidates: str, query: str = "why?", positives: Sequence[str] = ("because",), model: str = "m"
) -> Request:
    texts = [("query", query), *(("positive", one) for one in positives), *(("candidate", one) for one in candidates)]
    return Request(model, tuple({"role": role, "content": text} for role, text in texts), {})


def answers(settings: ModelScreenSettings, folder: Path, *requests: Request) -> list[Reply | BaseException]:
    async def scenario() -> list[Reply | BaseException]:
        client = ScreenClient(settings, lambda _: None, folder)
        await client.open()
        try:
            return await asyncio.gather(*map(client.send, requests), return_exceptions=True)
        finally:
            await client.close()

    return asyncio.run(scenario())


def measured(reply: Reply | BaseException) -> dict[str, list[float]]:
    assert isinstance(reply, Reply), reply
    found: dict[str, list[float]] = orjson.loads(reply.text)
    return found


def embedding(model: str, **more: Any) -> ModelScreenSettings:
    return ModelScreenSettings(screen="embedding", model=model, **more)


def test_an_embedder_measures_cosines(embedder: str, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    texts = ["why?", "because", "for no reason", "apples and pears"]
    query, positive, *rest = SentenceTransformer(embedder).encode(texts, normalize_embeddings=True)
    (reply,) = answers(embedding(embedder, dtype="float32"), tmp_path, request(*texts[2:]))
    found = measured(reply)
    assert found["to_query"] == pytest.approx([float(one @ query) for one in rest], abs=2e-3)
    assert found["to_positives"] == pytest.approx([float(one @ positive) for one in rest], abs=2e-3)
    assert found["of_positives"] == pytest.approx([float(positive @ query)] * 2, abs=2e-3)
    others = [positive + rest[1], positive + rest[0]]
    expected = [float(one @ other / np.linalg.norm(other)) for one, other in zip(rest, others, strict=True)]
    assert found["to_others"] == pytest.approx(expected, abs=2e-3)


def test_the_nearest_of_several_positives_counts(embedder: str, tmp_path: Path) -> None:
    (reply,) = answers(embedding(embedder), tmp_path, request("the same", positives=("because", "the same")))
    assert measured(reply)["to_positives"] == pytest.approx([1.0], abs=1e-2)


def test_a_text_is_embedded_once_and_kept(embedder: str, tmp_path: Path) -> None:
    asked = [request("one", "two"), request("two", "three", query="how?")]
    first = [measured(reply) for reply in answers(embedding(embedder), tmp_path, *asked)]
    with sqlite3.connect(tmp_path / VECTORS) as cache:
        assert cache.execute("SELECT count(*) FROM vectors").fetchone() == (6,)
        cache.execute("UPDATE vectors SET vector = zeroblob(64)")
    (again,) = answers(embedding(embedder), tmp_path, asked[0])
    assert measured(again)["to_query"] == [0.0, 0.0]
    elsewhere = answers(embedding(embedder, cache=str(tmp_path / "more" / "other.sqlite")), tmp_path, *asked)
    assert [measured(reply) for reply in elsewhere] == first


def test_a_cross_encoder_scores_positives_and_candidates(cross_encoder: str, tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    pairs = [("why?", text) for text in ("because", "for no reason", "apples")]
    expected = [float(score) for score in CrossEncoder(cross_encoder).predict(pairs)]
    settings = ModelScreenSettings(screen="cross-encoder", model=cross_encoder, dtype="float32")
    (reply,) = answers(settings, tmp_path, request("for no reason", "apples"))
    assert measured(reply)["to_query"] == pytest.approx(expected[1:], abs=1e-4)
    assert measured(reply)["of_positives"] == pytest.approx(expected[:1] * 2, abs=1e-4)


def test_a_cross_encoder_of_several_scores_is_refused(tmp_path: Path) -> None:
    model = str(make_cross_encoder(tmp_path, labels=3))
    (stopped,) = answers(ModelScreenSettings(screen="cross-encoder", model=model), tmp_path, request("one"))
    assert isinstance(stopped, RunStopped)
    assert "must give one score for a pair" in str(stopped)


def test_a_model_that_is_not_there_stops_the_run_and_says_what_would_do(tmp_path: Path) -> None:
    (stopped,) = answers(embedding(str(tmp_path / "none")), tmp_path, request("one"))
    assert isinstance(stopped, RunStopped)
    assert "cannot be loaded" in str(stopped)
    assert "a folder that holds one" in str(stopped)


def test_without_the_library_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "relabel.clients.measuring", raising=False)
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    (stopped,) = answers(embedding("some/model"), tmp_path, request("one"))
    assert isinstance(stopped, RunStopped)
    assert "pip install 'relabel[embed]'" in str(stopped)


def test_a_cache_that_is_none_is_said_to_be_so(embedder: str, tmp_path: Path) -> None:
    (tmp_path / VECTORS).write_bytes(b"no database" * 100)
    (stopped,) = answers(embedding(embedder), tmp_path, request("one"))
    assert isinstance(stopped, RunStopped)
    assert "no cache of vectors" in str(stopped)


def test_a_stop_gives_up_what_waits(embedder: str, tmp_path: Path) -> None:
    async def scenario() -> list[Reply | BaseException]:
        client = ScreenClient(embedding(embedder), lambda _: None, tmp_path)
        await client.open()
        asking = [asyncio.create_task(client.send(request(*(f"{n} {m}" for m in range(300))))) for n in range(6)]
        await asyncio.sleep(0.01)
        client.halt()
        try:
            return await asyncio.gather(*asking, return_exceptions=True)
        finally:
            await client.close()

    found = asyncio.run(scenario())
    assert all(isinstance(one, (Reply, RunStopped)) for one in found)
    assert isinstance(found[-1], RunStopped)


def test_the_pulse_tells_how_much_has_been_measured_and_how_fast(embedder: str, tmp_path: Path) -> None:
    async def scenario() -> list[str]:
        client = ScreenClient(embedding(embedder), lambda _: None, tmp_path)
        await client.open()
        said = [client.pulse()]
        asking = asyncio.create_task(client.send(request("one", "two")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        said.append(client.pulse())
        await asking
        said.append(client.pulse())
        await client.close()
        return said

    before, loading, after = asyncio.run(scenario())
    assert (before, loading) == ("", f"loading {embedder}")
    assert after.startswith("4 texts, ")
    assert after.endswith("/s")
