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
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from relabel import __version__
from relabel.clients.errors import Again, Refused, classify, complaint, read_json, unsupported
from relabel.clients.pace import Pace, Patience
from relabel.clients.target import find_target
from relabel.config import OpenAIClientSettings
from relabel.errors import RunStopped, Unanswered
from relabel.records import Reply, Request, Usage

_FIRST_CONTACT = 3
"""Attempts at a server that has never answered, before it is taken to be the wrong address."""

_FIRST_WAIT = 1.0
"""Seconds before the second attempt, where the server does not say; twice as long before each next."""

_LONGEST_WAIT = 60.0


class OpenAIClient:
    """Posts requests with bounded concurrency, rate limits and retries.

    The first request for each model goes alone: it shows whether key, model and address are right and which
    parameters the model takes, before many are sent. What a model refuses is left out from then on.
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
            wait=lambda state: _pause(_fault(state), state.attempt_number),
            sleep=self._sleep,
            retry_error_callback=self._give_up,
        )
        return await retrying(attempt)

    async def _sleep(self, seconds: float) -> None:
        async with self._patience.wait():
            await asyncio.sleep(seconds)

    def _unreached(self, state: RetryCallState) -> bool:
        return _fault(state).no_contact and not self._heard

    def _enough(self, state: RetryCallState) -> bool:
        """Stop after `max_attempts`, and early at a server that nobody has ever reached."""
        most = self._settings.max_attempts
        return state.attempt_number >= (min(most, _FIRST_CONTACT) if self._unreached(state) else most)

    def _give_up(self, state: RetryCallState) -> Reply:
        fault = _fault(state)
        if self._unreached(state):
            raise self._stopped(f"no server there: {fault}. Is it up, and is base_url (or OPENAI_BASE_URL) right?")
        attempts = f"{state.attempt_number} attempts" if state.attempt_number > 1 else "1 attempt"
        raise Unanswered(f"{self.endpoint}: {fault} ({attempts})")

    async def _once(self, request: Request) -> Reply:
        """One attempt, and again at once for each parameter that the model turns out not to take."""
        dialect = self._dialects.setdefault(request.model, Dialect())
        while True:
            spoken, sent = dialect.name, dialect.body(request)
            body = orjson.dumps(sent | {"messages": orjson.Fragment(request.messages_json)})
            status, headers, content, seconds = await self._exchange(request, body)
            if status == 200 and (reply := _reply(content, spoken, seconds)) is not None:
                self._heard = True
                return reply
            found = complaint(status, headers, content, self._target.secrets)
            if status == 200:
                raise Again(f"status 200 without a chat completion: {found.message[:80]!r}")
            if (name := unsupported(found, sent)) is not None:
                self._learn(request.model, dialect, name, str(found))
                continue
            if found.wait is not None and status in (429, 503):
                self._keep_quiet(found.wait, str(found))
            fault = classify(found)
            if isinstance(fault, RunStopped) and self._heard and status in (400, 403):
                fault = Refused(str(found))  # it has answered others: this is about the request, not about us
            if isinstance(fault, Refused):
                self._heard = True
                return Reply("refused", error=str(fault), dialect=spoken, seconds=seconds)
            raise self._stopped(str(fault)) if isinstance(fault, RunStopped) else fault

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

    def _learn(self, model: str, dialect: Dialect, name: str, said: str) -> None:
        """Adapt to what the model does not take, and say so the first time."""
        if name not in dialect.optional():
            raise self._stopped(f"{said}. Take {name!r} out of the tier's extra_body.")
        if dialect.learn(name):
            self._say(f"{model} at {self.endpoint} does not take {name!r}: left out or renamed")

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


@dataclass(slots=True)
class Dialect:
    """How a model wants a request put: which parameters it does not take, or takes under another name."""

    renamed: dict[str, str] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        """What deviates from the plain request, in words that a ledger can keep."""
        if not self.renamed and not self.dropped:
            return ""
        parts = [f"{old}={new}" for old, new in sorted(self.renamed.items()) if old not in self.dropped]
        return " ".join(parts + [f"-{name}" for name in sorted(self.dropped)])

    def body(self, request: Request) -> dict[str, Any]:
        """The request as it is posted."""
        body: dict[str, Any] = {"model": request.model, "messages": request.messages}
        for name, value in request.sampling.items():
            if name not in self.dropped:
                body[self.renamed.get(name, name)] = value
        return body

    def optional(self) -> set[str]:
        """Parameters that a request can do without, as they are sent."""
        return {"max_tokens", "temperature", "top_p", "seed", *self.renamed.values()}

    def learn(self, name: str) -> bool:
        """Rename a parameter where another name is known, or else leave it out; False if that has been learnt."""
        before = self.name
        if name == "max_tokens":
            self.renamed[name] = "max_completion_tokens"
        else:
            self.dropped.add(next((old for old, new in self.renamed.items() if new == name), name))
        return self.name != before


def _fault(state: RetryCallState) -> Again:
    fault = state.outcome.exception() if state.outcome else None
    assert isinstance(fault, Again)
    return fault


def _pause(fault: Again, attempt: int) -> float:
    """What the server asked for, or else twice as long each time up to a minute; with jitter either way."""
    if fault.after is not None:
        return fault.after + random.uniform(0, 0.5 * _FIRST_WAIT)
    return random.uniform(0.5, 1.0) * min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** (attempt - 1))


def _reply(content: bytes, dialect: str, seconds: float) -> Reply | None:
    """A reply from a chat completion, None from anything else that comes with status 200."""
    found = read_json(content)
    payload = found if isinstance(found, dict) else {}
    choices = payload.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        return None
    return Reply(
        "ok",
        _text(message.get("content")),
        _word(choice.get("finish_reason")),
        _word(message.get("refusal")),
        _word(message.get("reasoning_content") or message.get("reasoning")),
        model=_word(payload.get("model")) or "",
        fingerprint=_word(payload.get("system_fingerprint")),
        dialect=dialect,
        usage=_usage(payload.get("usage")),
        seconds=seconds,
    )


def _text(content: object) -> str:
    if isinstance(content, list):
        return "".join(_word(part.get("text")) or "" for part in content if isinstance(part, dict))
    return _word(content) or ""


def _word(value: object) -> str | None:
    """A text that UTF-8 can hold: halves of surrogate pairs, which JSON lets pass, are replaced."""
    if not isinstance(value, str) or not value:
        return None
    return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _usage(usage: object) -> Usage:
    if not isinstance(usage, dict):
        return Usage()
    details = usage.get("prompt_tokens_details")
    prompt = _count(usage.get("prompt_tokens"))
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else 0
    return Usage(prompt, min(cached, prompt), _count(usage.get("completion_tokens")))


def _count(value: object) -> int:
    return value if type(value) is int and 0 < value < 1 << 53 else 0
