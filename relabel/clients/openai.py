"""Any server that speaks the OpenAI chat completions API, over HTTP; or several that serve the same models.

The environment variables are those of the `openai` package; for Azure the package itself says where to post.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import aiohttp
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from relabel import __version__
from relabel.clients.connections import Connections
from relabel.clients.errors import Again
from relabel.clients.pace import Patience
from relabel.clients.server import Server
from relabel.clients.target import find_target
from relabel.errors import RunStopped, Unanswered
from relabel.records import Reply, Request
from relabel.settings import OpenAIClientSettings, ServerSettings

_HOPELESS = 3
"""Attempts where an error says that nothing will ever work: at a server that has never answered, which may be the wrong
address, and at one that has, which may have been a slip of something on the way.
"""

_FIRST_WAIT = 0.25
"""Seconds before a failed request is sent again; twice as long before each next attempt."""

_LONGEST_WAIT = 60.0

_REFUSALS = (0.2, 5.0)
"""Seconds before a request that came too many is sent again, the first and the longest: that there are fewer of them is
seen to by the flow.
"""

_REFUSALS_AN_ATTEMPT = 4
"""So many refusals because of too many requests count as one of `max_attempts`."""


_FAR_BUSIER, _A_FEW = 1.25, 8
"""So many times as many requests, and so many more, may a server have than another before it is spared."""


class OpenAIClient:
    """Posts requests with bounded concurrency, rate limits and retries.

    The first request for each model goes alone: it shows whether key, model and address are right and which
    parameters the model takes, before many are sent. What a model refuses is left out from then on, and what it
    ignores is said once.

    Of several servers one that is down is left alone but for a request now and then, and one that is given up is left
    out; the run ends when none is left.
    """

    def __init__(self, name: str, settings: OpenAIClientSettings, say: Callable[[str], None]) -> None:
        self._prepare(name, settings, say, [Server(name, find_target(name, settings), settings, say)])

    def _prepare(
        self, name: str, settings: ServerSettings, say: Callable[[str], None], servers: Sequence[Server]
    ) -> None:
        self.concurrency = settings.concurrency * len(servers)
        self.endpoint = ", ".join(server.endpoint for server in servers)
        self.say = say
        self.servers = servers
        self._name = name
        self._settings = settings
        self._left_out: list[Server] = []
        self._tried: dict[str, asyncio.Event] = {}
        self._patience = Patience()

    async def open(self) -> None:
        """Make the connection pool; no connection is opened yet."""
        proxied = any(name.lower() in ("http_proxy", "https_proxy", "all_proxy") for name in os.environ)
        self.session = aiohttp.ClientSession(
            connector=Connections(limit=0, ttl_dns_cache=300),
            timeout=aiohttp.ClientTimeout(total=self._settings.timeout, sock_connect=10),
            headers={
                "User-Agent": f"relabel/{__version__}",
                "Content-Type": "application/json",
                "Accept": "application/json",
                "Accept-Encoding": "identity",
            },
            trust_env=proxied,
            auto_decompress=False,
        )
        for server in self.servers:
            server.open(self.session)
            server.flow.lets_go = len(self.servers) > 1

    def halt(self) -> None:
        """Give up what waits to be sent, for the first time or again; what has been posted is awaited."""
        self._end("the run has been stopped")

    def _end(self, reason: str) -> None:
        self._patience.end(reason)
        for server in self.servers:
            server.flow.patience.end(reason)

    async def close(self) -> None:
        """Close all connections."""
        await self.session.close()

    async def send(self, request: Request, near: str = "") -> Reply:
        """The reply, after as many attempts as it takes up to `max_attempts`."""
        tried = self._tried.get(request.model)
        if tried is not None:
            if not tried.is_set():
                async with self._patience.wait():
                    await tried.wait()
            return await self._persist(request, near)
        tried = self._tried[request.model] = asyncio.Event()
        try:
            return await self._persist(request, near)
        finally:
            tried.set()

    async def _once(self, request: Request, tour: Tour) -> Reply:
        """One attempt, at the server that is best for it."""
        server = self.servers[0] if len(self.servers) == 1 else best(self.servers, tour)
        tour.been_at.append(server)
        try:
            reply = await server.once(request)
        except RunStopped as fault:
            raise self._leave_out(server, str(fault)) from None
        except Again as fault:
            if fault.after is not None and self._others(server):
                raise Again(str(fault), too_many=fault.too_many) from None
            if len(self.servers) == 1 or not self._hopeless(fault, server):
                raise
            server.strikes += 1
            there = [one for one in self.servers if not one.gone]
            # one that nobody has reached yet may only be late, as long as another is there
            if server.strikes >= _HOPELESS and (fault.fatal or all(one.strikes >= _HOPELESS for one in there)):
                raise self._leave_out(server, f"{server.endpoint}: {_with_advice(fault)}") from None
            raise Again(str(fault), too_many=True) from None
        server.strikes = 0
        if reply.status == "refused" and len(tour.been_at) == 1 and self._others(server):
            raise Again(f"{server.endpoint} refuses it: {reply.error}", after=0.0)  # another may hold more
        return reply

    def _others(self, server: Server) -> bool:
        """Whether another server may do as well."""
        return any(one is not server and not (one.gone or one.flow.down or one.flow.quiet) for one in self.servers)

    def _leave_out(self, server: Server, reason: str) -> Again | RunStopped:
        """No request to this server will ever be answered: the others do without it, if there are any."""
        server.flow.patience.end(reason)
        if self._patience.ended or all(one.gone for one in self.servers):
            self._end(reason)
            return RunStopped(reason)
        if server not in self._left_out:
            self._left_out.append(server)
            self.say(f"{server.endpoint} is left out from now on: {reason}")
        return Again(f"{server.endpoint} is given up", too_many=True)

    async def _persist(self, request: Request, near: str) -> Reply:
        """The first attempt goes straight; only if it fails does tenacity take over, and counts it."""
        tour = Tour(near)
        try:
            return await self._once(request, tour)
        except Again as fault:
            failed = [fault]
        tries = _Tries()

        async def attempt() -> Reply:
            if failed:
                raise failed.pop()
            return await self._once(request, tour)

        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda fault: isinstance(fault, Again) and tries.add(fault)),
            stop=lambda state: tries.count >= self._most(_failure(state)),
            wait=lambda state: tries.pause(_failure(state)),
            sleep=self._sleep,
            retry_error_callback=self._give_up,
        )
        return await retrying(attempt)

    async def _sleep(self, seconds: float) -> None:
        async with self._patience.wait():
            await asyncio.sleep(seconds)

    def _most(self, fault: Again) -> int:
        """How many attempts are made: fewer where it looks as if none will ever work."""
        most = self._settings.max_attempts
        return min(most, _HOPELESS) if len(self.servers) == 1 and self._hopeless(fault, self.servers[0]) else most

    def _hopeless(self, fault: Again, server: Server) -> bool:
        return fault.fatal or bool(fault.advice and not server.flow.heard)

    def _give_up(self, state: RetryCallState) -> Reply:
        fault = _failure(state)
        if len(self.servers) == 1 and self._hopeless(fault, self.servers[0]):
            message = f"client {self._name!r}, {self.endpoint}: {_with_advice(fault)}"
            self._end(message)
            raise RunStopped(message)
        attempts = f"{state.attempt_number} attempts" if state.attempt_number > 1 else "1 attempt"
        raise Unanswered(f"{self.endpoint}: {fault} ({attempts})")


@dataclass(slots=True)
class Tour:
    """Where a request belongs, and which servers have been tried with it."""

    near: str
    been_at: list[Server] = field(default_factory=list)


def best(servers: Sequence[Server], tour: Tour) -> Server:
    """The server for a request: the one where others that begin alike have gone, unless it is far busier than another.

    Servers that are given up, down or ask to be left alone get none, but for one that is due to be tried again; nor
    does one that has failed with this very request, as long as there are others.
    """
    there = [server for server in servers if not server.gone] or servers
    for server in there:
        if server.flow.wants_a_knock:
            return server
    up = [server for server in there if not (server.flow.down or server.flow.quiet)] or there
    tried = tour.been_at[-len(up) + 1 :] if len(up) > 1 else []
    fresh = [server for server in up if server not in tried] or up
    at_home = max(fresh, key=lambda server: blake2b(f"{tour.near} {server.endpoint}".encode(), digest_size=8).digest())
    idlest = min(fresh, key=lambda server: server.flow.load)
    return at_home if at_home.flow.load <= _FAR_BUSIER * idlest.flow.load + _A_FEW else idlest


def _with_advice(fault: Again) -> str:
    return f"{fault}. {fault.advice}" if fault.advice else str(fault)


def _failure(state: RetryCallState) -> Again:
    fault = state.outcome.exception() if state.outcome else None
    assert isinstance(fault, Again)
    return fault


class _Tries:
    """The failed attempts at one request so far, and when to make the next."""

    def __init__(self) -> None:
        self._failures = 0
        self._refusals = 0

    def add(self, fault: Again) -> bool:
        """Count one more; always true."""
        if fault.too_many:
            self._refusals += 1
        else:
            self._failures += 1
        return True

    @property
    def count(self) -> float:
        """How many of `max_attempts` they come to."""
        return self._failures + self._refusals / _REFUSALS_AN_ATTEMPT

    def pause(self, fault: Again) -> float:
        """Seconds: what the server asked for, or else more each time; with jitter either way."""
        if fault.after is not None:
            return fault.after + random.uniform(0, 0.5 * _FIRST_WAIT)
        if fault.too_many:
            return random.uniform(0.5, 1.0) * min(_REFUSALS[1], _REFUSALS[0] * 1.5 ** (self._refusals - 1))
        return random.uniform(0.5, 1.0) * min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** (self._failures - 1))
