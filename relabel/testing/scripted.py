"""A client that answers in process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from relabel.records import Reply, Request, Usage


class ScriptedClient:
    """Answers each request through `script`, which gives a text, a Reply, or raises a ClientError."""

    endpoint = "scripted"

    def __init__(self, script: Callable[[Request], str | Reply], concurrency: int = 64) -> None:
        self.concurrency = concurrency
        self.requests: list[Request] = []
        self._script = script

    async def open(self) -> None:
        """Nothing to get ready."""

    async def send(self, request: Request, near: str = "") -> Reply:
        """The script's answer; text becomes a finished reply."""
        self.requests.append(request)
        await asyncio.sleep(0)
        answer = self._script(request)
        if isinstance(answer, Reply):
            return answer
        size = sum(len(message["content"]) for message in request.messages)
        return Reply("ok", answer, "stop", model=request.model, usage=Usage(size // 4, 0, len(answer) // 4))

    def halt(self) -> None:
        """Nothing waits to be sent."""

    async def close(self) -> None:
        """Nothing to let go of."""
