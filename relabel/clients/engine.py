"""A vLLM engine that is started here and ends with the run: no server, and no two models on the GPU at the same time.

The engine lives in a process of its own (relabel.clients.host): its memory is free for the next model once it has
ended, it does not hear Ctrl-C, and it does not outlive this process, however that ends.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import signal
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import orjson

from relabel.clients import Desk
from relabel.clients.dialect import Dialect
from relabel.clients.errors import Complaint, complaint
from relabel.clients.pace import Patience
from relabel.clients.wire import reply_from
from relabel.errors import RunStopped, Unanswered
from relabel.records import Call, Reply, Request, Usage
from relabel.settings import VLLMClientSettings
from relabel.text import printable

_HOST = Path(__file__).with_name("host.py")
_FAREWELL = 30.0
"""Seconds that the engine is given to end by itself."""

_LARGEST = 64 << 20
"""More bytes than any of its answers has."""


class EngineClient:
    """Starts its engine at the first call; only one at a time has its model loaded.

    Calls for another model are put off to the next pass over the source, in which it is that model's turn. The first
    tier's comes first: what it finds decides what the others are asked.
    """

    _all: ClassVar[list[EngineClient]] = []
    """Those that are open, in this process: they share its GPU."""

    _turn: ClassVar[EngineClient | None] = None

    def __init__(self, name: str, settings: VLLMClientSettings, say: Callable[[str], None], folder: Path) -> None:
        self.concurrency = settings.concurrency
        self.endpoint = f"vllm:{settings.model}"
        self._log = folder / f"vllm-{re.sub(r'[^A-Za-z0-9_-]', '_', name)}.log"
        self._name = name
        self._settings = settings
        self._say = say
        self._dialect = Dialect()
        self._waits = self._asked = False
        self._engine: _Engine | None = None

    async def open(self) -> None:
        """Nothing is loaded before the first call."""
        self._patience = Patience()
        self._room = asyncio.Semaphore(self.concurrency)
        self._starting = asyncio.Lock()
        EngineClient._all.append(self)

    def puts_off(self, call: Call) -> bool:
        """Whether another model has its turn."""
        if EngineClient._turn is None and EngineClient._all[0] is self:
            EngineClient._turn = self
        self._waits = EngineClient._turn is not self
        return self._waits

    async def settle(self, desk: Desk) -> None:
        """If this model has had its turn, or none has it, and another waits: make room for the first that does."""
        waiting = next((one for one in EngineClient._all if one._waits), None)
        if waiting is None or not (EngineClient._turn is None or (EngineClient._turn is self and self._asked)):
            return
        await self._unload()
        EngineClient._turn, waiting._waits, waiting._asked = waiting, False, False

    def halt(self) -> None:
        """Give up what waits for the engine; what it works on is awaited."""
        self._patience.end("the run has been stopped")

    async def close(self) -> None:
        """End the engine."""
        await self._unload()
        EngineClient._all.remove(self)
        if EngineClient._turn is self:
            EngineClient._turn = None

    async def _unload(self) -> None:
        if self._engine is not None:
            await self._engine.end()
            self._engine = None

    async def send(self, request: Request, near: str = "") -> Reply:
        """The engine's reply."""
        self._asked = True
        async with self._patience.wait():
            await self._room.acquire()
        try:
            engine = self._engine or await self._started()
            spoken, body = self._dialect.body(request)
            started = time.monotonic()
            status, answer = await engine.ask(body)
            seconds = time.monotonic() - started
        except EngineFailed as fault:
            raise self._stopped(str(fault)) from None
        finally:
            self._room.release()
        reply = reply_from(answer, seconds) if status == 200 else None
        if reply is not None:
            engine.count(reply.usage)
            return replace(reply, dialect=spoken, engine=engine.name)
        return self._refused(complaint(status, {}, orjson.dumps(answer)), seconds)

    def _refused(self, found: Complaint, seconds: float) -> Reply:
        """What it means that the engine did not answer."""
        if found.code == "TypeError":
            raise self._stopped(f"vLLM does not take a parameter: {found.message}. Look at the tier's extra_body.")
        if found.status >= 500:
            raise Unanswered(f"{self.endpoint}: {found}")
        return Reply("refused", error=found.message, seconds=seconds)

    async def _started(self) -> _Engine:
        """The engine, once somebody has started it. Raises RunStopped."""
        async with self._patience.wait(), self._starting, self._patience.wait():
            try:
                self._engine = self._engine or await self._start()
            except EngineFailed as fault:
                raise self._stopped(str(fault)) from None
            return self._engine

    async def _start(self) -> _Engine:
        engine = _Engine(self._settings.python or sys.executable, self._settings.engine_arguments(), self._log)
        self._say(f"starting vLLM for {self._settings.model}; its log is {engine.log}")
        try:
            await engine.start()
        except BaseException:
            await engine.end()
            raise
        self._say(f"{engine.name} runs {self._settings.model}")
        return engine

    def _stopped(self, reason: str) -> RunStopped:
        message = f"client {self._name!r}, {self.endpoint}: {reason}"
        self._patience.end(message)
        return RunStopped(message)

    def pulse(self) -> str:
        """Requests in flight, and the share of prompt tokens that came from the prefix cache."""
        return self._engine.pulse() if self._engine else ""


class EngineFailed(Exception):
    """The engine did not start, or has ended."""


class _Engine:
    """The process that runs a model."""

    def __init__(self, python: str, given: dict[str, Any], log: Path) -> None:
        self.log = log
        self.name = ""
        self._python = python
        self._given = given
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[tuple[int, Any]]] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._cached = self._prompted = 0

    async def start(self) -> None:
        """Load the model. Raises EngineFailed."""
        command = (self._python, "-P", str(_HOST))  # not among its neighbours, one of whom is called openai
        try:
            with self.log.open("wb") as log:
                self._process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=PIPE,
                    stdout=PIPE,
                    stderr=log,
                    limit=_LARGEST,
                    start_new_session=True,
                )
        except OSError as fault:
            raise EngineFailed(f"{self._python} cannot be started: {fault.strerror}") from None
        self._write(self._given)
        try:
            said = orjson.loads(await self._out.readline() or b"{}")
            if "facts" not in said:
                raise EngineFailed(self._what_went_wrong(said.get("failed", "the engine did not start")))
            facts = {name: printable(str(value))[:100] for name, value in said["facts"].items() if value}
        except (ValueError, AttributeError, TypeError):
            raise EngineFailed(self._what_went_wrong(f"{self._python} does not run the engine as it should")) from None
        named = ("dtype", "quantization", "revision", "max_model_len")
        self.name = " ".join(
            [f"vllm {facts.get('vllm', '')}", *(f"{name}={facts[name]}" for name in named if name in facts)]
        )
        self._reading = asyncio.create_task(self._read())

    @property
    def _out(self) -> asyncio.StreamReader:
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout

    def _write(self, what: Any) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(orjson.dumps(what, option=orjson.OPT_APPEND_NEWLINE))

    def _what_went_wrong(self, said: str) -> str:
        """Its words, with a hint where vLLM is not there at all."""
        if "No module named 'vllm'" in said:
            return (
                f"{self._python} has no vLLM: pip install 'relabel[vllm]', or name a Python that has it "
                "as the client's `python`."
            )
        return f"{str(said).rstrip('. ')}. Its log is {self.log}."

    async def ask(self, body: dict[str, Any]) -> tuple[int, Any]:
        """A status and what comes with it. Raises EngineFailed when the engine ends."""
        if self._reading is None or self._reading.done():
            raise EngineFailed(self._what_went_wrong("the engine has ended"))
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        self._write({"id": number, "body": body})
        try:
            return await self._answers[number]
        finally:
            del self._answers[number]

    async def _read(self) -> None:
        """Hand out answers until the engine ends, or says what nobody can read."""
        why = "the engine has ended"
        try:
            while line := await self._out.readline():
                said = orjson.loads(line)
                answer, status, body = self._answers.get(said["id"]), int(said["status"]), dict(said["body"])
                if answer is not None and not answer.done():
                    answer.set_result((status, body))
        except (ValueError, LookupError, TypeError):
            why = "the engine has broken off, or does not answer as it should"
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(EngineFailed(self._what_went_wrong(why)))

    def count(self, usage: Usage) -> None:
        """Take note of how many tokens of a prompt came from the cache."""
        self._prompted += usage.prompt
        self._cached += usage.cached

    def pulse(self) -> str:
        """How it is doing."""
        share = f", {self._cached / self._prompted:.0%} of prompt tokens cached" if self._prompted else ""
        return f"{len(self._answers)} running{share}"

    async def end(self) -> None:
        """Free the model, and wait for that; with force if it takes long."""
        if self._process is None:
            return
        try:
            if self._process.stdin is not None:
                self._process.stdin.close()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), _FAREWELL if self.name else 0)
        finally:
            with suppress(ProcessLookupError):  # it, and what it may have left behind
                os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        if self._reading is not None:
            await self._reading
