"""An OpenAI-compatible server on loopback that fails, refuses and dawdles in every way that real ones do."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from email.utils import formatdate
from hashlib import blake2b
from inspect import isawaitable
from typing import Any, Literal, get_args

import orjson
from aiohttp import web

from relabel.testing.server import Answer, Handler, ReplyServer, completion

RetryAfter = Literal["none", "seconds", "date", "ms"]

Fault = Callable[[Answer, dict[str, Any]], Answer]

_PORTAL = "<html><body>Welcome to our network. <a href='/login'>Log in</a></body></html>"


def too_many(said: RetryAfter = "none", seconds: float = 1.0) -> Answer:
    """A 429, with when to come back."""
    headers = {
        "none": {},
        "seconds": {"Retry-After": str(math.ceil(seconds))},
        "date": {"Retry-After": formatdate(math.ceil(time.time() + seconds), usegmt=True)},
        "ms": {"retry-after-ms": str(math.ceil(1000 * seconds))},
    }[said]
    return _error(429, "Rate limit reached", headers)


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status=status, body={"error": {"message": message, "type": "server"}}, headers=headers or {})


FAULTS: Mapping[str, Fault] = {
    "401": lambda answer, body: _error(401, "Incorrect API key provided"),
    "404": lambda answer, body: _error(404, f"The model {body['model']!r} does not exist"),
    "429": lambda answer, body: too_many(),
    "429-seconds": lambda answer, body: too_many("seconds"),
    "429-date": lambda answer, body: too_many("date"),
    "429-ms": lambda answer, body: too_many("ms", 0.05),
    "500": lambda answer, body: _error(500, "The server had an error"),
    "502": lambda answer, body: Answer(status=502, body="<html>Bad Gateway</html>"),
    "503": lambda answer, body: _error(503, "Overloaded"),
    "529": lambda answer, body: _error(529, "Overloaded"),
    "timeout": lambda answer, body: replace(answer, latency=86_400),
    "cut": lambda answer, body: replace(answer, manner="cut"),
    "reset": lambda answer, body: replace(answer, manner="reset"),
    "drip": lambda answer, body: replace(answer, manner="drip", latency=max(answer.latency, 1.0)),
    "twice": lambda answer, body: replace(answer, manner="twice"),
    "truncated": lambda answer, body: replace(answer, body=_text(answer, body)[:-20]),
    "malformed": lambda answer, body: replace(answer, body="{'choices': nonsense"),
    "no-choices": lambda answer, body: replace(answer, body={"choices": []}),
    "null": lambda answer, body: replace(answer, message={"content": None}),
    "length": lambda answer, body: replace(answer, text=answer.text[: len(answer.text) // 2], finish_reason="length"),
    "filter": lambda answer, body: replace(answer, text="", finish_reason="content_filter"),
    "type": lambda answer, body: replace(answer, headers={"Content-Type": "text/plain; charset=latin-1"}),
    "portal": lambda answer, body: Answer(body=_PORTAL),
}
"""What may go wrong with an answer, by its name."""


def _text(answer: Answer, body: Mapping[str, Any]) -> str:
    return orjson.dumps(completion(body, answer)).decode()


class MisbehavingServer(ReplyServer):
    """`with MisbehavingServer(handler, faults={"429": 0.2, "reset": 0.02}) as server:` is a ReplyServer in bad health.

    `faults` are shares of requests by their names (FAULTS). What befalls an attempt depends on its body, on how often
    that was asked before and on `seed`, never on the order of requests. `latency` is the median in seconds, `spread`
    the standard deviation of its logarithm; with `slows` requests in flight it is twice as long, and so on. More than
    `per_second` requests (`burst` at once), `tokens_per_minute` or `at_once` in flight are refused with 429 and a
    Retry-After in the form of `retry_after`. After `dies_after` requests it is dead for `dead_for` seconds.

    `server.gave` counts what was given, by a fault's name, "ok" or "too many". Where the server runs elsewhere
    (`python -m relabel.testing`), `GET /counts` tells.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        faults: Mapping[str, float] | None = None,
        latency: float = 0.0,
        spread: float = 0.0,
        slows: float = math.inf,
        per_second: float = math.inf,
        burst: float = 1.0,
        tokens_per_minute: float = math.inf,
        at_once: float = math.inf,
        retry_after: RetryAfter = "none",
        dies_after: int = 0,
        dead_for: float = 5.0,
        seed: int = 0,
        port: int = 0,
    ) -> None:
        super().__init__(handler, port=port)
        if unknown := sorted((faults or {}).keys() - FAULTS.keys()):
            raise ValueError(f"no fault {', '.join(unknown)}; there are {', '.join(FAULTS)}")
        if sum((faults or {}).values()) > 1:
            raise ValueError("the shares of all faults come to more than 1")
        if retry_after not in get_args(RetryAfter):
            raise ValueError(f"retry_after is {retry_after!r}, expected one of {', '.join(get_args(RetryAfter))}")
        self.gave: Counter[str] = Counter()
        self._well = handler
        self._handler = self._misbehave
        self._faults = dict(faults or {})
        self._seconds, self._spread, self._slows = latency, spread, slows
        self._requests = _Bucket(per_second, burst)
        self._tokens = _Bucket(tokens_per_minute / 60, tokens_per_minute / 60)
        self._most, self._retry_after = at_once, retry_after
        self._dies_after, self._dead_for = dies_after, dead_for
        self._times: Counter[bytes] = Counter()
        self._seed = seed

    def add_routes(self, app: web.Application) -> None:
        """Serve the counts, too."""
        super().add_routes(app)
        app.router.add_get("/counts", self._tell)

    def counts(self) -> dict[str, Any]:
        """What was asked and given so far."""
        return {
            "requests": self.keys.total(),
            "different": len(self.keys),
            "most_at_once": self.most_at_once,
            "gave": dict(self.gave.most_common()),
        }

    async def _tell(self, _: web.Request) -> web.Response:
        return web.Response(body=orjson.dumps(self.counts()), content_type="application/json")

    async def _misbehave(self, body: dict[str, Any]) -> Answer:
        if self._dies_after and self.asked.total() == self._dies_after:
            await self._rest()
        refusal = self._refusal(body)
        if refusal is not None:
            self.gave["too many"] += 1
            return refusal
        told = blake2b(orjson.dumps(body), digest_size=16).digest()
        self._times[told] += 1
        chance = random.Random(f"{self._seed} {told.hex()} {self._times[told]}")
        name = self._fault(chance.random())
        if name.startswith("429"):  # a refusal takes no time
            self.gave[name] += 1
            return FAULTS[name](Answer(), body)
        found = self._well(body)
        answer = await found if isawaitable(found) else found
        answer = Answer(answer) if isinstance(answer, str) else answer
        seconds = self._seconds * math.exp(chance.gauss(0, self._spread)) * (1 + self._at_once / self._slows)
        answer = replace(answer, latency=answer.latency + seconds)
        self.gave[name] += 1
        return answer if name == "ok" else FAULTS[name](answer, body)

    def _fault(self, chance: float) -> str:
        for name, share in self._faults.items():
            if chance < share:
                return name
            chance -= share
        return "ok"

    def _refusal(self, body: Mapping[str, Any]) -> Answer | None:
        now = time.monotonic()
        tokens = sum(len(str(message["content"])) for message in body["messages"]) / 4
        wait = max(self._requests.wait(now, 1.0), self._tokens.wait(now, tokens))
        if self._at_once > self._most:
            wait = max(wait, self._seconds)
        elif wait <= 0:
            self._requests.take(1.0)
            self._tokens.take(tokens)
            return None
        return too_many(self._retry_after, wait)

    async def _rest(self) -> None:
        async def later() -> None:
            await self._die()
            await asyncio.sleep(self._dead_for)
            await self._rise()

        self._resting = asyncio.create_task(later())


class _Bucket:
    """Fills at a rate; what is taken must be in it."""

    def __init__(self, per_second: float, room: float) -> None:
        self._rate, self._room = per_second, room
        self._level, self._at = room, time.monotonic()

    def wait(self, now: float, amount: float) -> float:
        """Seconds until so much is there; one that is larger than the room need only find it full."""
        if self._rate == math.inf:
            return 0.0
        self._level = min(self._room, self._level + (now - self._at) * self._rate)
        self._at = now
        return (min(amount, self._room) - self._level) / self._rate

    def take(self, amount: float) -> None:
        """Take so much."""
        self._level -= amount
