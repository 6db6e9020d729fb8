"""What keeps a client from sending: a rate that its user sets, and waits that end when the run does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from relabel.errors import RunStopped


class Pace:
    """A rate, spread evenly: no minute holds more than `per_minute`, but for what the last to start in it brings."""

    def __init__(self, per_minute: float | None) -> None:
        self._seconds_each = 60 / per_minute if per_minute else 0.0
        self._free_at = 0.0

    def pause(self, now: float) -> float:
        """Seconds until the next may go."""
        return self._free_at - now

    def spend(self, now: float, amount: float = 1.0) -> None:
        """Something goes, and weighs so much."""
        self._free_at = max(now - self._seconds_each, self._free_at) + amount * self._seconds_each


class Patience:
    """Waits that can be ended: once `end` is called, each of them, and each later one, raises RunStopped."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Timeout] = set()
        self._turns: set[asyncio.Future[None]] = set()
        self._reason = ""

    @property
    def ended(self) -> bool:
        """Whether `end` has been called."""
        return bool(self._reason)

    def end(self, reason: str) -> None:
        """End all waits for this reason; the first one given stands."""
        if not self._reason:
            self._reason = reason
            now = asyncio.get_running_loop().time()
            for wait in self._waiting:
                wait.reschedule(now)
            for turn in self._turns:
                if not turn.done():
                    turn.set_exception(RunStopped(self._reason))

    @contextmanager
    def bears(self, turn: asyncio.Future[None]) -> Iterator[None]:
        """Within it, wait for this future, and nothing else."""
        if self._reason:
            raise RunStopped(self._reason)
        self._turns.add(turn)
        try:
            yield
        finally:
            self._turns.discard(turn)

    @asynccontextmanager
    async def wait(self) -> AsyncIterator[None]:
        """Within it, wait for whatever has to be waited for."""
        if not self._reason:
            try:
                async with asyncio.timeout(None) as wait:
                    self._waiting.add(wait)
                    try:
                        yield
                    finally:
                        self._waiting.discard(wait)
                    return
            except TimeoutError:
                pass
        raise RunStopped(self._reason)
