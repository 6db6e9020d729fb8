"""Clients answer requests. The seam is one method, `send`; fakes stand behind the same one (relabel.testing)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from relabel.config import ClientSettings, OpenAIClientSettings
from relabel.records import Reply, Request


class Client(Protocol):
    """A way to have requests answered. Opened and closed once a run, used by many tasks at once."""

    concurrency: int
    endpoint: str
    """Where replies come from, without credentials."""

    async def open(self) -> None:
        """Get ready, in the event loop that will call `send`."""

    async def send(self, request: Request) -> Reply:
        """The reply to a request.

        Raises Unanswered when it got none after all attempts, RunStopped when no request ever will.
        """

    def halt(self) -> None:
        """The run stops: give up what waits to be sent with RunStopped, and await what is under way."""

    async def close(self) -> None:
        """Let go of connections."""


def make_client(name: str, settings: ClientSettings, say: Callable[[str], None]) -> Client:
    """The client for its settings. `say` is told once of each thing that is found out about a server."""
    if isinstance(settings, OpenAIClientSettings):
        from relabel.clients.openai import OpenAIClient

        return OpenAIClient(name, settings, say)
    from relabel.clients.replay import ReplayClient

    return ReplayClient(settings)
