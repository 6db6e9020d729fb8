"""Any server that speaks the OpenAI chat completions API, over HTTP.

The wire format, the environment variables and the meaning of errors are those of the `openai` package; requests are
posted through aiohttp, which costs a tenth of the time. For Azure the package itself says where to post.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import aiohttp
import orjson
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from relabel import __version__
from relabel.clients.dialect import Dialect
from relabel.clients.errors import Again, Complaint, Refused, classify, complaint, is_plain, unsupported
from relabel.clients.pace import Pace, Patience
from relabel.clients.target import find_target
from relabel.clients.wire import reply_of
from relabel.config import OpenAIClientSettings
from relabel.errors import RunStopped, Unanswered
from relabel.records import Reply, Request

_FIRST_CONTACT = 3
"""Attempts at a server that has never answered, before it is taken to be the wrong address."""

_FIRST_WAIT = 1.0
"""Seconds before the second attempt, where the server does not say; twice as long before each next."""

_LONGEST_WAIT = 60.0


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
        self._heard = False
        self._quiet_until = 0.0

    async def open(self) -> None:
        """Make the connection pool; no connection is opened yet."""
        proxied = any(name.lower() in ("http_proxy", "https_proxy", "all_proxy") for name in os.environ)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300),
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
        self._slots = asyncio.Semaphore(self.concurrency)
        self._requests = Pace(self._settings.requests_per_minute)
        self._tokens = Pace(self._settings.tokens_per_minute)
        self._patience = Patience()

    def halt(self) -> None:
        """Give up what waits to be sent, for the first time or again; what has been posted is awaited."""
        self._patience.end("the run has been stopped")

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def send(self, request: Request) -> Reply:
        """The reply, after as many attempts as it takes up to `max_attempts`."""
        tried = self._tried.get(request.model)
        if tried is not None:
            if not tried.is_set():
                async with self._patience.wait():
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

        async def attempt() -> Reply:
            if failed:
                raise failed.pop()
            return await self._once(request)

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(Again),
            stop=self._enough,
            wait=lambda state: _pause(_failure(state), state.attempt_number),
            sleep=self._sleep,
            retry_error_callback=self._give_up,
        )
        return await retrying(attempt)

    async def _sleep(self, seconds: float) -> None:
        async with self._patience.wait():
            await asyncio.sleep(seconds)

    def _unreached(self, state: RetryCallState) -> bool:
        return _failure(state).no_contact and not self._heard

    def _enough(self, state: RetryCallState) -> bool:
        """Stop after `max_attempts`, and early at a server that nobody has ever reached."""
        most = self._settings.max_attempts
        return state.attempt_number >= (min(most, _FIRST_CONTACT) if self._unreached(state) else most)

    def _give_up(self, state: RetryCallState) -> Reply:
        fault = _failure(state)
        if self._unreached(state):
            raise self._stopped(f"no server there: {fault}. Is it up, and is base_url (or OPENAI_BASE_URL) right?")
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
                self._heard = True
                return Reply("refused", error=str(fault), dialect=spoken, seconds=found.seconds)
            raise fault

    async def _put(
        self, request: Request, dialect: Dialect, sent: dict[str, Any], spoken: str, fault: Complaint | None = None
    ) -> Reply | Complaint:
        """Post a request once; `fault` is the complaint for which something has been left out of it."""
        body = orjson.dumps(sent | {"messages": orjson.Fragment(request.messages_json)})
        status, headers, content, seconds = await self._exchange(request, body)
        if status != 200 or (reply := reply_of(content, seconds)) is None:
            return replace(complaint(status, headers, content, self._target.secrets), seconds=seconds)
        self._heard = True
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
            return Again(f"status 200 without a chat completion: {found.message[:80]!r}")
        if found.wait is not None and found.status in (429, 503):
            self._keep_quiet(found.wait, str(found))
        fault = classify(found)
        if isinstance(fault, RunStopped) and self._heard and found.status in (400, 403):
            return Refused(str(found))  # it has answered others: this is about the request, not about us
        return self._stopped(str(fault)) if isinstance(fault, RunStopped) else fault

    async def _exchange(self, request: Request, body: bytes) -> tuple[int, Mapping[str, str], bytes, float]:
        """Status, headers, content and seconds of one post, once it may be made."""
        if self._unhindered():
            await self._slots.acquire()
        else:
            async with self._patience.wait():
                await self._turn(request, len(body))
        started = time.monotonic()
        try:
            status, headers, content = await self._post(body, request.model)
        finally:
            self._slots.release()
        return status, headers, content, time.monotonic() - started

    def _unhindered(self) -> bool:
        """Whether a request can be posted this instant, as most can where no limits are set."""
        if self._patience.ended or self._requests.limited or self._tokens.limited or self._slots.locked():
            return False
        return time.monotonic() >= self._quiet_until

    def _learn(self, request: Request, dialect: Dialect, name: str, said: Complaint, sent: Mapping[str, Any]) -> None:
        """Adapt to what the model does not take, and say so the first time."""
        news = name in dialect.optional() and dialect.learn(name)
        if dialect.body(request)[1] == sent:
            raise self._stopped(f"{said}. Take {name!r} out of the tier's extra_body.")
        if news:
            where = f"{request.model} at {self.endpoint}"
            self._say(f"{where} does not take {name!r}: left out or renamed ({said.message[:120]})")

    def _keep_quiet(self, seconds: float, said: str) -> None:
        """Send nothing for so long; a long silence is explained."""
        now = time.monotonic()
        if seconds >= _LONGEST_WAIT and now >= self._quiet_until:
            self._say(f"{self.endpoint} asks to wait {seconds:.0f} s: {said}")
        self._quiet_until = max(self._quiet_until, now + seconds)

    def _stopped(self, reason: str) -> RunStopped:
        """The error for all who send, or would."""
        message = f"client {self._name!r}, {self.endpoint}: {reason}"
        self._patience.end(message)
        return RunStopped(message)

    async def _turn(self, request: Request, size: int) -> None:
        """Take a slot, at a time that the rate limits allow and no Retry-After forbids."""
        while True:
            while (pause := self._quiet_until - time.monotonic()) > 0:
                await asyncio.sleep(pause + random.uniform(0, 0.25))
            await self._slots.acquire()
            try:
                await self._requests.take()
                await self._tokens.take(size / 4 + float(request.sampling.get("max_tokens") or 0))
            except BaseException:
                self._slots.release()
                raise
            if time.monotonic() >= self._quiet_until:
                return
            self._slots.release()

    async def _post(self, body: bytes, model: str) -> tuple[int, Mapping[str, str], bytes]:
        try:
            url = self._target.url_for(model)
            async with self._session.post(
                url, data=body, headers=self._target.headers, allow_redirects=False
            ) as response:
                return response.status, response.headers, await response.read()
        except aiohttp.ConnectionTimeoutError:
            raise Again("no connection within 10 s", no_contact=True) from None
        except TimeoutError:
            raise Again(f"no answer within {self._settings.timeout:g} s") from None
        except aiohttp.ClientConnectorError as fault:
            raise Again(f"no connection ({fault.os_error.strerror or fault.os_error})", no_contact=True) from None
        except (aiohttp.ClientError, OSError) as fault:
            raise Again(f"the connection broke ({type(fault).__name__})") from None


def _failure(state: RetryCallState) -> Again:
    fault = state.outcome.exception() if state.outcome else None
    assert isinstance(fault, Again)
    return fault


def _pause(fault: Again, attempt: int) -> float:
    """What the server asked for, or else twice as long each time up to a minute; with jitter either way."""
    if fault.after is not None:
        return fault.after + random.uniform(0, 0.5 * _FIRST_WAIT)
    return random.uniform(0.5, 1.0) * min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** (attempt - 1))
