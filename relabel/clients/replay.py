"""Replies recorded in another run's ledger."""

from __future__ import annotations

from pathlib import Path

from relabel.errors import Unanswered
from relabel.ledger import Ledger
from relabel.records import Reply, Request
from relabel.settings import ReplayClientSettings


class ReplayClient:
    """Answers only what was once answered, and never sends anything."""

    def __init__(self, settings: ReplayClientSettings) -> None:
        self.concurrency = settings.concurrency
        self.endpoint = f"replay:{Path(settings.path).name}"
        self._path = Path(settings.path)

    async def open(self) -> None:
        """Open the recorded ledger."""
        self._ledger = Ledger(None, read=[self._path])

    async def send(self, request: Request, near: str = "") -> Reply:
        """The recorded reply."""
        reply = self._ledger.get(request.key)
        if reply is None:
            raise Unanswered(f"{self._path} holds no reply to request {request.key}")
        return reply

    def halt(self) -> None:
        """Nothing ever waits."""

    async def close(self) -> None:
        """Close the recorded ledger."""
        self._ledger.close()
