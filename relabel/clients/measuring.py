"""What is measured between the texts of a screen's request, and by which model. Needs the extra `embed`."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import orjson
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers.utils.logging import disable_progress_bar

from relabel.config import ModelScreenSettings
from relabel.errors import RunStopped
from relabel.records import Reply, Request

Vectors = npt.NDArray[np.float32]

_LIMIT = 500
"""Keys that are looked up in one statement."""


class Measuring(Protocol):
    """A loaded model."""

    def measure(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply for each request."""

    def close(self) -> None:
        """Let go of it."""


def load(settings: ModelScreenSettings, cache: Path) -> Measuring:
    """The model of a screen; raises whatever its library raises."""
    disable_progress_bar()
    options: dict[str, Any] = {
        "device": settings.device,
        "revision": settings.revision,
        "model_kwargs": {"dtype": getattr(torch, settings.dtype)},
    }
    if settings.screen == "cross-encoder":
        return Scorer(CrossEncoder(settings.model, **options), settings.batch)
    name = f"{_identity(settings.model)} {settings.revision or ''} {settings.dtype}"
    return Embedder(SentenceTransformer(settings.model, **options), settings.batch, VectorCache(cache, name))


def _identity(model: str) -> str:
    """A model's name; of a folder also what lies in it, so that vectors of another model are not taken for its own."""
    if not Path(model).is_dir():
        return model
    files = sorted(path for path in Path(model).rglob("*") if path.is_file())
    return "\n".join(f"{path.resolve()} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files)


class Embedder:
    """Measures cosines. A text is embedded once: its vector is kept on disk, under a hash of model and text."""

    def __init__(self, model: SentenceTransformer, batch: int, cache: VectorCache) -> None:
        self._model = model
        self._batch = batch
        self._cache = cache

    def close(self) -> None:
        """Close the cache."""
        self._cache.close()

    def measure(self, requests: Sequence[Request]) -> list[Reply]:
        """`to_query`, `to_positives` (the nearest), `to_others` (their mean) and `of_positives` (the greatest)."""
        started = time.monotonic()
        vectors = self._vectors(dict.fromkeys(_sided(m) for request in requests for m in request.messages))
        seconds = (time.monotonic() - started) / len(requests)
        return [_reply(_cosines(request, vectors), seconds) for request in requests]

    def _vectors(self, texts: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Vectors]:
        found = self._cache.get(texts)
        for side, encode in (("query", self._model.encode_query), ("document", self._model.encode_document)):
            missing = [text for text in texts if text[0] == side and text not in found]
            new: dict[tuple[str, str], Vectors] = {}
            for some in self._alike(missing):
                encoded = encode(
                    [text for _, text in some],
                    batch_size=self._batch,
                    normalize_embeddings=True,
                    show_progress_bar=False,
                    convert_to_tensor=True,
                )
                made = encoded.float().cpu().numpy().astype(np.float16)  # as the cache keeps it
                new |= zip(some, made.astype(np.float32), strict=True)
            if new:
                self._cache.put(new)
            found |= new
        return found

    def _alike(self, texts: Sequence[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
        """The texts in batches of like length, in tokens: hardly anything is padded."""
        if not texts:
            return
        tokenizer: Any = self._model.tokenizer
        words = [text for _, text in texts]
        lengths = list(map(len, tokenizer(words, truncation=True)["input_ids"] if callable(tokenizer) else words))
        by_length = sorted(range(len(texts)), key=lengths.__getitem__)
        for start in range(0, len(texts), self._batch):
            yield [texts[place] for place in by_length[start : start + self._batch]]


class Scorer:
    """Measures how relevant a passage is for the query, as a cross-encoder has it."""

    def __init__(self, model: CrossEncoder, batch: int) -> None:
        self._model = model
        self._batch = batch

    def close(self) -> None:
        """There is nothing to close."""

    def measure(self, requests: Sequence[Request]) -> list[Reply]:
        """`to_query` and `of_positives`, on the model's own scale."""
        started = time.monotonic()
        pairs = dict.fromkeys(
            (request.messages[0]["content"], m["content"]) for request in requests for m in request.messages[1:]
        )
        made = self._model.predict(list(pairs), batch_size=self._batch, show_progress_bar=False, convert_to_tensor=True)
        if made.ndim != 1:
            raise RunStopped("the model of a cross-encoder must give one score for a pair; this one gives several")
        scores = dict(zip(pairs, made.float().cpu().tolist(), strict=True))
        seconds = (time.monotonic() - started) / len(requests)
        return [_reply(_scored(request, scores), seconds) for request in requests]


class VectorCache:
    """Vectors of texts in a SQLite file, as half floats."""

    def __init__(self, path: Path, model: str) -> None:
        self._model = model.encode()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=60)
            self._file.execute("PRAGMA journal_mode=WAL")
            self._file.execute("PRAGMA synchronous=NORMAL")
            self._file.execute("CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB) WITHOUT ROWID")
        except (sqlite3.Error, OSError) as fault:
            raise RunStopped(f"{path}: no cache of vectors: {fault}. Delete it, or name another: `cache`.") from None

    def get(self, texts: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Vectors]:
        """The vectors that are known."""
        keys = {self._key(text): text for text in texts}
        names, found = list(keys), {}
        for start in range(0, len(names), _LIMIT):
            some = names[start : start + _LIMIT]
            marks = ",".join("?" * len(some))
            for key, vector in self._file.execute(f"SELECT key, vector FROM vectors WHERE key IN ({marks})", some):
                found[keys[key]] = np.frombuffer(vector, np.float16).astype(np.float32)
        return found

    def put(self, vectors: dict[tuple[str, str], Vectors]) -> None:
        """Keep vectors."""
        rows = [(self._key(text), vector.astype(np.float16).tobytes()) for text, vector in vectors.items()]
        self._file.execute("BEGIN IMMEDIATE")
        self._file.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)
        self._file.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _key(self, text: tuple[str, str]) -> bytes:
        side, words = text
        return blake2b(b"\0".join((self._model, side.encode(), words.encode())), digest_size=16).digest()


def _sided(message: Any) -> tuple[str, str]:
    """A text with the side that it is embedded for."""
    return "query" if message["role"] == "query" else "document", message["content"]


def _cosines(request: Request, vectors: dict[tuple[str, str], Vectors]) -> dict[str, list[float]]:
    by_role: dict[str, list[Vectors]] = {}
    for message in request.messages:
        by_role.setdefault(message["role"], []).append(vectors[_sided(message)])
    query, positives, candidates = (np.stack(by_role[role]) for role in ("query", "positive", "candidate"))
    others = candidates.sum(axis=0) + positives.sum(axis=0) - candidates
    others /= np.maximum(np.linalg.norm(others, axis=1, keepdims=True), 1e-12)
    measured = {
        "to_query": candidates @ query[0],
        "to_positives": (candidates @ positives.T).max(axis=1),
        "to_others": (candidates * others).sum(axis=1),
        "of_positives": np.full(len(candidates), (positives @ query[0]).max()),
    }
    return {name: [round(float(value), 6) for value in column] for name, column in measured.items()}


def _scored(request: Request, scores: dict[tuple[str, str], float]) -> dict[str, list[float]]:
    query = request.messages[0]["content"]
    of = {
        role: [scores[query, m["content"]] for m in request.messages if m["role"] == role]
        for role in ("positive", "candidate")
    }
    return {
        "to_query": [round(score, 6) for score in of["candidate"]],
        "of_positives": [round(max(of["positive"]), 6)] * len(of["candidate"]),
    }


def _reply(columns: dict[str, list[float]], seconds: float) -> Reply:
    return Reply("ok", orjson.dumps(columns).decode(), "stop", seconds=seconds)
