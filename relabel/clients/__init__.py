"""Clients answer requests. The seam is one method, `send`; fakes stand behind the same one (relabel.testing)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

from relabel.records import Call, Reply, Request
from relabel.settings import BatchClientSettings, ClientSettings, OpenAIClientSettings, VLLMClientSettings


class Client(Protocol):
    """A way to have requests answered. Opened and closed once a run, used by many tasks at once."""

    concurrency: int
    endpoint: str
    """Where replies come from, without credentials."""

    async def open(self) -> None:
        """Get ready, in the event loop that will call `send`."""

    async def send(self, request: Request, near: str = "") -> Reply:
        """The reply to a request. Requests with the same `near` begin alike: one server's cache serves them best.

        Raises Unanswered when it got none after all attempts, RunStopped when no request ever will.
        """

    def halt(self) -> None:
        """The run stops: give up what waits to be sent with RunStopped, and await what is under way."""

    async def close(self) -> None:
        """Let go of connections."""


@runtime_checkable
class Watched(Protocol):
    """A client that knows how its server or engine is doing."""

    def pulse(self) -> str:
        """How it is doing, in a few words; nothing where that is not known."""


class Desk(Protocol):
    """Whoever keeps the run's books: says what may be sent between two passes, and takes replies in."""

    def admit(self, call: Call, *, sent: bool = False) -> bool:
        """Whether the budget has room for this call. One that was `sent` before is counted, room or not, unless its
        reply is at hand: then not.
        """

    async def store(self, call: Call, reply: Reply | None) -> None:
        """Take in the reply to a call that was admitted, or that it gets none for now; returns when it is on disk."""


@runtime_checkable
class Deferring(Client, Protocol):
    """A client that puts calls off: into a batch, or until its model has its turn.

    A call that was put off has no reply in this pass over the source. Between two passes the client is told to settle;
    the next pass finds the replies in the ledger.
    """

    def puts_off(self, call: Call) -> bool:
        """Whether this call must wait for the pass to end; if not, it is to be sent."""

    async def settle(self, desk: Desk) -> None:
        """Have what was put off answered, or get ready to answer it in the next pass.

        Raises RunStopped where somebody must do something first, or nothing more can be done.
        """


def make_client(name: str, settings: ClientSettings, say: Callable[[str], None], folder: Path) -> Client:
    """The client for its settings. `say` is told once of each thing that is found out about a server; `folder` is the
    run's, for what must outlast this process.
    """
    if isinstance(settings, BatchClientSettings):
        from relabel.clients.batches.client import BatchClient

        return BatchClient(name, settings, say, folder)
    if isinstance(settings, VLLMClientSettings) and settings.model is not None:
        from relabel.clients.engine import EngineClient

        return EngineClient(name, settings, say, folder)
    if isinstance(settings, VLLMClientSettings):
        from relabel.clients.vllm import VLLMClient

        return VLLMClient(name, settings, say)
    if isinstance(settings, OpenAIClientSettings):
        from relabel.clients.openai import OpenAIClient

        return OpenAIClient(name, settings, say)
    from relabel.clients.replay import ReplayClient

    return ReplayClient(settings)
