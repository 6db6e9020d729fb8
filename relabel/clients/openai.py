"""Any server that speaks the OpenAI chat completions API, over HTTP.

The wire format, the environment variables and the meaning of errors are those of the `openai` package; requests are
posted through aiohttp, which costs a tenth of the time. For Azure the package itself says where to post.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import aiohttp
import orjson
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from relabel import __version__
from relabel.clients.connections import Connections
from relabel.clients.dialect import Dialect
from relabel.clients.errors import Again, Complaint, Refused, classify, complaint, is_plain, unsupported
from relabel.clients.flow import Flow
from relabel.clients.target import find_target
from relabel.clients.wire import reply_of
from relabel.config import OpenAIClientSettings
from relabel.errors import RunStopped, Unanswered
from relabel.records import Reply, Request

_HOPELESS = 3
"""Attempts where an error says that nothing will ever work: at a server that has never answered, which may be the wrong
address, and at one that has, which may have been a slip of something on the way.
"""

_NOBODY = "Is it up, and is base_url (or OPENAI_BASE_URL) right?"
_NO_API = "That is no chat completions API: check base_url (or OPENAI_BASE_URL), or a proxy or log-in page on the way."

_FIRST_WAIT = 0.25
"""Seconds before a failed request is sent again; twice as long before each next attempt."""

_LONGEST_WAIT = 60.0

_LARGEST = 32 << 20
"""More bytes than any chat completion has."""

_REFUSALS = (0.2, 5.0)
"""Seconds before a request that came too many is sent again, the first and the longest: that there are fewer of them is
seen to by the flow.
"""

_REFUSALS_AN_ATTEMPT = 4
"""So many refusals because of too many requests count as one of `max_attempts`."""


class OpenAIClient:
    """Posts requests with bounded concurrency, rate limits and retries.

    The first request for each model goes alone: it shows whether key, model and address are right and which
    parameters the model takes, before many are sent. What a model refuses is left out from then on, and what it
    ignores is said once.
    """

    def __init__(self, name: str, settings: OpenAIClientSettings, say: Callable[[str], None]) -> None:
        self.concurrency = settings.concurrency
        self._name = name
        self._settings = settings
        self._say = say
        self._target = find_target(name, settings)
        self.endpoint = self._target.endpoint
        self._dialects: dict[str, Dialect] = {}
        self._tried: dict[str, asyncio.Event] = {}
        self._trying: dict[str, asyncio.Lock] = {}

    async def open(self) -> None:
        """Make the connection pool; no connection is opened yet."""
        proxied = any(name.lower() in ("http_proxy", "https_proxy", "all_proxy") for name in os.environ)
        self._session = aiohttp.ClientSession(
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
        self._flow = Flow(self.endpoint, self._settings, self._say)

    def halt(self) -> None:
        """Give up what waits to be sent, for the first time or again; what has been posted is awaited."""
        self._flow.patience.end("the run has been stopped")

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def send(self, request: Request) -> Reply:
        """The reply, after as many attempts as it takes up to `max_attempts`."""
        tried = self._tried.get(request.model)
        if tried is not None:
            if not tried.is_set():
                async with self._flow.patience.wait():
                    await tried.wait()
            return await self._persist(request)
        tried = self._tried[request.model] = asyncio.Event()
        try:
            return await self._persist(request)
        finally:
            tried.set()

    async def _persist(self, request: Request) -> Reply:
        """The first attempt goes straight; only if it fails does tenacity take over, and counts it."""
        try:
            return await self._once(request)
        except Again as fault:
            failed = [fault]
        tries = _Tries()

        async def attempt() -> Reply:
            if failed:
                raise failed.pop()
            return await self._once(request)

        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda fault: isinstance(fault, Again) and tries.add(fault)),
            stop=lambda state: tries.count >= self._most(_failure(state)),
            wait=lambda state: tries.pause(_failure(state)),
            sleep=self._sleep,
            retry_error_callback=self._give_up,
        )
        return await retrying(attempt)

    async def _sleep(self, seconds: float) -> None:
        async with self._flow.patience.wait():
            await asyncio.sleep(seconds)

    def _most(self, fault: Again) -> int:
        """How many attempts are made: fewer where it looks as if none will ever work."""
        most = self._settings.max_attempts
        return min(most, _HOPELESS) if self._hopeless(fault) else most

    def _hopeless(self, fault: Again) -> bool:
        return fault.fatal or bool(fault.advice and not self._flow.heard)

    def _give_up(self, state: RetryCallState) -> Reply:
        fault = _failure(state)
        if self._hopeless(fault):
            raise self._stopped(f"{fault}. {fault.advice}" if fault.advice else str(fault))
        attempts = f"{state.attempt_number} attempts" if state.attempt_number > 1 else "1 attempt"
        raise Unanswered(f"{self.endpoint}: {fault} ({attempts})")

    async def _once(self, request: Request) -> Reply:
        """One attempt, and again at once for each parameter that the model turns out not to take."""
        dialect = self._dialects.setdefault(request.model, Dialect())
        while True:
            spoken, sent = dialect.body(request)
            found = await self._put(request, dialect, sent, spoken)
            if isinstance(found, Reply):
                return found
            if (name := unsupported(found, sent, dialect.taken)) is not None:
                self._learn(request, dialect, name, found, sent)
                continue
            if dialect.may_be_to_blame(sent, found):
                async with self._trying.setdefault(request.model, asyncio.Lock()):
                    if dialect.body(request)[1] != sent:
                        continue  # somebody has found out meanwhile
                    reply = await self._try_without(request, dialect, sent, found)
                if reply is not None:
                    return reply
            fault = self._fault(found)
            if isinstance(fault, Refused):
                self._flow.heard = True
                return Reply("refused", error=str(fault), dialect=spoken, seconds=found.seconds)
            raise fault

    async def _put(
        self, request: Request, dialect: Dialect, sent: dict[str, Any], spoken: str, fault: Complaint | None = None
    ) -> Reply | Complaint:
        """Post a request once; `fault` is the complaint for which something has been left out of it."""
        body = orjson.dumps(sent | {"messages": orjson.Fragment(request.messages_json)})
        status, headers, content, seconds = await self._exchange(request, body)
        if status != 200 or (reply := reply_of(content, seconds, self._target.masked)) is None:
            return replace(complaint(status, headers, content, self._target.masked), seconds=seconds)
        self._flow.answered(seconds)
        for found_out in dialect.heard(request, sent, reply, fault):
            self._say(f"{request.model} at {self.endpoint} {found_out}")
        return replace(reply, dialect=dialect.name_of(spoken, sent))

    async def _try_without(
        self, request: Request, dialect: Dialect, sent: Mapping[str, Any], fault: Complaint
    ) -> Reply | None:
        """The reply that comes once something is left out that a request can do without; None if none comes."""
        for without in dialect.trials(sent, fault):
            spoken, less = dialect.body(request, without)
            found = await self._put(request, dialect, less, spoken, fault)
            if isinstance(found, Reply):
                return found
            if is_plain(found) or (found.status >= 500 > fault.status):
                raised = self._fault(found)
                if not isinstance(raised, Refused):  # this trial shows nothing
                    raise raised
        dialect.tried_in_vain(sent)
        return None

    def _fault(self, found: Complaint) -> Again | Refused | RunStopped:
        """What an error means, here and now."""
        if found.status == 200:
            shown = f": {found.message[:80]!r}" if found.message else ", but nothing"
            return self._failed(Again(f"status 200 without a chat completion{shown}", advice=_NO_API))
        overloaded = found.status in (429, 503, 529)
        if overloaded:
            self._flow.refused(str(found), found.wait)
        fault = classify(found)
        if found.status < 500:
            self._flow.alive()
        elif isinstance(fault, Again):
            return self._failed(fault)
        if not isinstance(fault, RunStopped):
            return fault
        if self._flow.heard and found.status in (400, 403):
            return Refused(str(found))  # it has answered others: this is about the request, not about us
        return Again(str(fault), fatal=True) if self._flow.heard else self._stopped(str(fault))

    def _failed(self, fault: Again) -> Again | RunStopped:
        """What a failure means that may be the server's: another attempt, until it has been down for too long."""
        hopeless = self._flow.failed(str(fault))
        return self._stopped(hopeless) if hopeless else fault

    async def _exchange(self, request: Request, body: bytes) -> tuple[int, Mapping[str, str], bytes, float]:
        """Status, headers, content and seconds of one post, once it may be made."""
        await self._flow.enter(len(body) / 4 + float(request.sampling.get("max_tokens") or 0))
        started = time.monotonic()
        try:
            status, headers, content = await self._post(body, request)
        except Again as fault:
            raise self._failed(fault) from None
        finally:
            self._flow.leave()
        return status, headers, content, time.monotonic() - started

    def _learn(self, request: Request, dialect: Dialect, name: str, said: Complaint, sent: Mapping[str, Any]) -> None:
        """Adapt to what the model does not take, and say so the first time."""
        news = name in dialect.optional() and dialect.learn(name)
        if dialect.body(request)[1] == sent:
            raise self._stopped(f"{said}. Take {name!r} out of the tier's extra_body.")
        if news:
            where = f"{request.model} at {self.endpoint}"
            self._say(f"{where} does not take {name!r}: left out or renamed ({said.message[:120]})")

    def _stopped(self, reason: str) -> RunStopped:
        """The error for all who send, or would."""
        message = f"client {self._name!r}, {self.endpoint}: {reason}"
        self._flow.patience.end(message)
        return RunStopped(message)

    async def _post(self, body: bytes, request: Request) -> tuple[int, Mapping[str, str], bytes]:
        url = self._target.url_for(request.model)
        headers = {**self._target.headers, "X-Client-Request-Id": request.key}
        try:
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                return response.status, response.headers, await _whole(response)
        except aiohttp.ConnectionTimeoutError:
            raise Again("no server there: no connection within 10 s", advice=_NOBODY) from None
        except TimeoutError:
            self._flow.refused("no answer", None)
            raise Again(f"no answer within {self._settings.timeout:g} s") from None
        except aiohttp.ClientConnectorError as fault:
            if fault.os_error.errno in (errno.EMFILE, errno.ENFILE):
                raise Again("no connection: too many files are open here (ulimit -n)") from None
            why = fault.os_error.strerror or fault.os_error
            raise Again(f"no server there: no connection ({why})", advice=_NOBODY) from None
        except (aiohttp.ClientError, OSError) as fault:
            raise Again(f"the connection broke ({type(fault).__name__})") from None


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    """The body, if it is of a size that a reply can have."""
    content = bytearray()
    while block := await response.content.readany():
        content += block
        if len(content) > _LARGEST:
            response.close()
            raise Again(f"a body of more than {_LARGEST >> 20} MiB", advice=_NO_API)
    return bytes(content)


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
