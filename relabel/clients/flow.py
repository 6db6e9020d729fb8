"""When a client may send: one gate through which all its requests go, one after the other.

It holds them back while too many are in flight, while the server has asked for silence, to keep to the rates that are
set and to the one that the server turns out to take (relabel.clients.rate), and while the server is down: then one
request at a time tries whether it is back.
"""

from __future__ import annotations

import asyncio
import math
import random
import resource
import time
from collections import deque
from collections.abc import Callable

from relabel.clients.errors import Again
from relabel.clients.pace import Pace, Patience
from relabel.clients.rate import Rate
from relabel.settings import ServerSettings

_DOWN_AFTER = 10
"""So many failures in a row, of whatever requests, and a server is taken to be down."""

_KNOCKS = (0.5, 30.0)
"""Seconds between two requests to a server that is down: the first, and the longest; each is twice the one before."""

_GIVE_UP_AFTER = (60.0, 300.0)
"""Seconds without a reply after which a server that is down is given up: one never heard, and one that has answered."""

_LONG = 60.0
"""Seconds of silence that are worth telling the user."""

_A_WHILE = 1.0
"""Seconds of silence for which requests had better go to another server, if there is one."""

_GLANCE = 0.25
"""Seconds after which the gate looks again who may go: what is waited for may have changed."""

_OTHER_FILES = 128
"""Open files that a process needs besides its connections."""


class Flow:
    """Lets requests through when nothing speaks against it. `say` is told what a user should know."""

    def __init__(self, endpoint: str, settings: ServerSettings, say: Callable[[str], None]) -> None:
        self.heard = False
        """Whether the server has ever answered."""
        self.patience = Patience()
        self.lets_go = False
        """Whether those who wait are to try elsewhere when the server is down."""
        self._endpoint = endpoint
        self._say = say
        self._most = _within_limits(settings.concurrency, say)
        self._in_flight = 0
        self._waiting: deque[tuple[asyncio.Future[None], float]] = deque()
        self._glance: asyncio.TimerHandle | None = None
        self._requests = Pace(settings.requests_per_minute)
        self._tokens = Pace(settings.tokens_per_minute)
        self._rate = Rate()
        self._told: set[str] = set()
        self._quiet_from = self._quiet_until = self._silence = 0.0
        self._failures = 0
        self._down_since = math.inf
        self._knock_at, self._knock = 0.0, _KNOCKS[0]

    async def enter(self, tokens: float) -> None:
        """Wait for one's turn; a request weighs so many tokens. Raises RunStopped if the run ends before."""
        if not (self.patience.ended or self._waiting or self._pause() > 0):
            self._let_through(tokens)
            return
        turn = asyncio.get_running_loop().create_future()
        with self.patience.bears(turn):
            self._waiting.append((turn, tokens))
            self._open()
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():  # let through, and nobody there to go
                    self.leave()
                raise

    def leave(self) -> None:
        """A request that was let through has come to its end; who is next is seen once it is known to which."""
        self._in_flight -= 1
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._open)

    def _open(self) -> None:
        """Let through whoever may go, and look again when the next may."""
        while self._waiting:
            turn, tokens = self._waiting[0]
            if not turn.done():
                if (pause := self._pause()) > 0:
                    if self._glance is None:
                        self._glance = asyncio.get_running_loop().call_later(min(pause, _GLANCE), self._look)
                    return
                self._let_through(tokens)
                turn.set_result(None)
            self._waiting.popleft()

    def _look(self) -> None:
        self._glance = None
        self._open()

    def _let_through(self, tokens: float) -> None:
        now = time.monotonic()
        self._requests.spend(now)
        self._tokens.spend(now, tokens)
        self._rate.sent(self._open_time(now), self._in_flight)
        if self.down:
            self._knock_at, self._knock = now + self._knock, min(2 * self._knock, _KNOCKS[1])
        self._in_flight += 1

    def _pause(self) -> float:
        """Seconds until another request may go, as far as that is known."""
        if self._in_flight >= min(self._most, max(self._rate.at_once, 1)):
            return math.inf
        now = time.monotonic()
        return max(
            self._quiet_until - now,
            self._rate.pause(self._open_time(now)),
            self._requests.pause(now),
            self._tokens.pause(now),
            self._knock_at - now if self.down else 0.0,
        )

    def answered(self, seconds: float) -> None:
        """The server has answered a request, after so many seconds."""
        self.alive()
        self.heard = True
        self._rate.taken(self._open_time(time.monotonic()), seconds)

    def alive(self) -> None:
        """The server has said something, be it that it refuses."""
        self._failures = 0
        if self.down:
            self._down_since = math.inf
            self._rate = Rate()
            self._say(f"{self._endpoint} answers again")

    def refused(self, said: str, wait: float | None) -> None:
        """The server has refused a request because there are too many, and may have asked to wait so many seconds."""
        now = time.monotonic()
        own = self._rate.own
        if self._rate.refused(self._open_time(now), self._in_flight, silenced=wait is not None) and self.heard:
            self._tell_once("follow", f"refuses some requests ({said}): from now on as many are sent as it takes")
        if self._rate.own > own:
            self._tell_once("own", "refuses requests however few are sent: they are sent again")
        if wait is None:
            return
        if wait >= _LONG and now >= self._quiet_until:
            self._say(f"{self._endpoint} asks to wait {wait:.0f} s: {said}")
        if now >= self._quiet_until:
            self._silence += self._quiet_until - self._quiet_from
            self._quiet_from = self._quiet_until = now
        self._quiet_until = max(self._quiet_until, now + wait + random.uniform(0, min(0.25, wait)))
        if self.lets_go and self.quiet:
            self._let_go(f"{self._endpoint} asks to wait {wait:.0f} s")

    def failed(self, why: str) -> str:
        """A request got no answer, or none that makes sense. Returns why no other will, once that is clear."""
        now = time.monotonic()
        self._failures += 1
        if not self.down and self._failures >= _DOWN_AFTER:
            self._down_since, self._knock_at, self._knock = now, now, _KNOCKS[0]
            self._say(f"{self._endpoint} is down ({why}): one request at a time tries whether it is back")
            if self.lets_go:
                self._let_go(f"{self._endpoint} is down")
        patience = _GIVE_UP_AFTER[self.heard or self.lets_go]
        if now - self._down_since <= patience:
            return ""
        return f"{why}, and so it has been for {patience:.0f} s. Is it up?"

    @property
    def down(self) -> bool:
        """Whether the server has failed so often in a row that it is left alone."""
        return self._down_since < math.inf

    @property
    def wants_a_knock(self) -> bool:
        """Whether it is time to try if a server that is down is back."""
        return self.down and not self.load and not self.patience.ended and time.monotonic() >= self._knock_at

    @property
    def quiet(self) -> bool:
        """Whether the server has asked to be left alone for a while."""
        return self._quiet_until - time.monotonic() > _A_WHILE

    @property
    def load(self) -> int:
        """Requests in flight, and those that wait to be."""
        return self._in_flight + len(self._waiting)

    def _open_time(self, now: float) -> float:
        """The time that has passed without the silences which the server has asked for."""
        return min(now, max(self._quiet_from, now - (self._quiet_until - self._quiet_from))) - self._silence

    def _let_go(self, why: str) -> None:
        """Send those who wait away; they may try another server."""
        for turn, _ in self._waiting:
            if not turn.done():
                turn.set_exception(Again(why, too_many=True))

    def _tell_once(self, topic: str, message: str) -> None:
        if topic not in self._told:
            self._told.add(topic)
            self._say(f"{self._endpoint} {message}")


def _within_limits(concurrency: int, say: Callable[[str], None]) -> int:
    """As many requests at once as this process may have connections."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(files - _OTHER_FILES, 1) if files != resource.RLIM_INFINITY else concurrency
    if most < concurrency:
        say(f"concurrency {concurrency}: {most} at once at most, as this process may open {files} files (ulimit -n)")
    return min(concurrency, most)
