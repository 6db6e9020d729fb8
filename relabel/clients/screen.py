"""Small models that screens ask, in this process: embedders and cross-encoders of sentence-transformers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from relabel.config import ModelScreenSettings
from relabel.errors import RunStopped
from relabel.records import Reply, Request

if TYPE_CHECKING:
    from relabel.clients.measuring import Measuring

_TEXTS = 512
"""What one round of work takes at most, in texts: a few seconds on two cores."""

VECTORS = "vectors.sqlite"


class ScreenClient:
    """Answers a screen's requests, those that wait together in one round of work.

    The model is loaded when the first request comes: a run whose ledger answers all needs no model.
    """

    concurrency = 64

    def __init__(self, settings: ModelScreenSettings, say: Callable[[str], None], folder: Path) -> None:
        self.endpoint = f"screen:{settings.model}"
        self._settings = settings
        self._say = say
        self._cache = Path(settings.cache) if settings.cache else folder / VECTORS
        self._waiting: list[tuple[Request, asyncio.Future[Reply]]] = []
        self._working: asyncio.Task[None] | None = None
        self._model: Measuring | None = None
        self._texts, self._seconds = 0, 0.0

    async def open(self) -> None:
        """Get a thread to work in."""
        self._thread = ThreadPoolExecutor(1, "screen")

    async def send(self, request: Request, near: str = "") -> Reply:
        """What the model measured between the request's texts, as a JSON object of columns."""
        turn: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, turn))
        if self._working is None:
            self._working = asyncio.create_task(self._work())
        return await turn

    def pulse(self) -> str:
        """How much it has measured, and how fast."""
        if not self._texts:
            return f"loading {self._settings.model}" if self._working is not None else ""
        return f"{self._texts:,} texts, {self._texts / self._seconds:,.0f}/s"

    def halt(self) -> None:
        """Give up what waits; a round that is under way is awaited."""
        for _, turn in self._waiting:
            if not turn.done():
                turn.set_exception(RunStopped("the run has been stopped"))
        self._waiting.clear()

    async def close(self) -> None:
        """Let go of the model."""
        if self._working is not None:
            await self._working
        model, self._model = self._model, None
        if model is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, model.close)
        self._thread.shutdown()

    async def _work(self) -> None:
        """Round after round, until nobody waits."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            await asyncio.sleep(0)  # those who come at the same moment go together
            taken = self._take()
            try:
                replies = await loop.run_in_executor(self._thread, self._measure, [request for request, _ in taken])
            except Exception as fault:
                stopped = fault if isinstance(fault, RunStopped) else RunStopped(f"{self.endpoint}: {_said(fault)}")
                for _, turn in taken:
                    if not turn.done():
                        turn.set_exception(stopped)
            else:
                for (_, turn), reply in zip(taken, replies, strict=True):
                    if not turn.done():
                        turn.set_result(reply)
        self._working = None

    def _take(self) -> list[tuple[Request, asyncio.Future[Reply]]]:
        count = texts = 0
        for request, _ in self._waiting:
            texts += len(request.messages)
            count += 1
            if texts >= _TEXTS:
                break
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken

    def _measure(self, requests: Sequence[Request]) -> list[Reply]:
        if self._model is None:
            self._model = self._load()
        started = time.monotonic()
        replies = self._model.measure(requests)
        self._texts += sum(len(request.messages) for request in requests)
        self._seconds += time.monotonic() - started
        return replies

    def _load(self) -> Measuring:
        settings = self._settings
        try:
            from relabel.clients.measuring import load
        except ImportError as fault:
            raise RunStopped(
                f"the screen {settings.screen!r} needs the extra `embed` ({fault}): pip install 'relabel[embed]'."
            ) from None
        self._say(f"loading {settings.model} for the screen {settings.screen!r}")
        try:
            return load(settings, self._cache)
        except Exception as fault:  # whatever a library has to say of a model that it cannot load
            raise RunStopped(
                f"the model {settings.model!r} of the screen {settings.screen!r} cannot be loaded: {_said(fault)}. "
                "Name a model of sentence-transformers that can be downloaded here, or a folder that holds one."
            ) from None


def _said(fault: Exception) -> str:
    lines = str(fault).strip().splitlines()
    return (lines[0] if lines else type(fault).__name__).rstrip(".")
