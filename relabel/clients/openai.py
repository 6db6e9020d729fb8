"""Any server that speaks the OpenAI chat completions API, over HTTP.

The wire format, the environment variables and the meaning of errors are those of the `openai` package; requests are
posted through aiohttp, which costs a tenth of the time. For Azure the package itself says where to post.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
from aiolimiter import AsyncLimiter
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type
from yarl import URL

from relabel import __version__
from relabel.clients.errors import Again, Refused, classify, retry_after, unsupported
from relabel.config import OpenAIClientSettings
from relabel.errors import ConfigError, RunStopped, Unanswered
from relabel.records import Reply, Request, Usage

OPENAI_URL = "https://api.openai.com/v1"
_FIRST_CONTACT = 3
"""Attempts at a server that has never answered, before it is taken to be the wrong address."""


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
        self._target = _target(name, settings)
        self.endpoint = str(URL(self._target.url).with_user(None).with_query(None))
        self._dialects: dict[str, Dialect] = {}
        self._known: dict[str, asyncio.Event] = {}
        self._heard = False
        self._quiet_until = 0.0

    async def open(self) -> None:
        """Make the connection pool; no connection is opened yet."""
        proxied = any(name.lower() in ("http_proxy", "https_proxy", "all_proxy") for name in os.environ)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300),
            timeout=aiohttp.ClientTimeout(total=self._settings.timeout, sock_connect=30),
            headers={"User-Agent": f"relabel/{__version__}", "Content-Type": "application/json"},
            trust_env=proxied,
        )
        self._slots = asyncio.Semaphore(self.concurrency)
        self._requests = _limiter(self._settings.requests_per_minute, burst_seconds=1)
        self._tokens = _limiter(self._settings.tokens_per_minute, burst_seconds=10)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def send(self, request: Request) -> Reply:
        """The reply, after as many attempts as it takes up to `max_attempts`."""
        known = self._known.get(request.model)
        if known is not None:
            if not known.is_set():
                await known.wait()
            return await self._persist(request)
        known = self._known[request.model] = asyncio.Event()
        try:
            return await self._persist(request)
        finally:
            known.set()

    async def _persist(self, request: Request) -> Reply:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(Again),
            stop=self._enough,
            wait=_wait,
            reraise=True,
        )
        try:
            return await retrying(self._once, request)
        except Again as fault:
            if not self._heard and fault.no_contact:
                raise RunStopped(
                    f"client {self._name!r} cannot reach {self.endpoint}: {fault}. Is the server up, and is base_url "
                    "(or OPENAI_BASE_URL) right?"
                ) from None
            raise Unanswered(f"{self.endpoint}: {fault} ({self._settings.max_attempts} attempts)") from None

    def _enough(self, state: RetryCallState) -> bool:
        """Stop after `max_attempts`, and early at a server that nobody has ever reached."""
        fault = state.outcome.exception() if state.outcome else None
        unreached = isinstance(fault, Again) and fault.no_contact and not self._heard
        return state.attempt_number >= (_FIRST_CONTACT if unreached else self._settings.max_attempts)

    async def _once(self, request: Request) -> Reply:
        """One attempt, and again at once for each parameter that the model turns out not to take."""
        while True:
            dialect = self._dialects.setdefault(request.model, Dialect())
            sent = dialect.body(request)
            body = orjson.dumps(sent)
            await self._admission(request, len(body))
            async with self._slots:
                started = time.monotonic()
                status, headers, content = await self._post(body, request.model)
                seconds = time.monotonic() - started
            if status == 200:
                reply = _reply(content, dialect.name, seconds)
                self._heard = True
                return reply
            payload = _json(content)
            if (name := unsupported(status, payload, sent)) is not None:
                if dialect.learn(name):
                    self._say(f"{request.model} at {self.endpoint} does not take {name!r}: left out or renamed")
                continue
            wait = retry_after(headers)
            if wait is not None and status in (429, 503):
                self._quiet_until = max(self._quiet_until, time.monotonic() + wait)
            message = self._target.redacted(_message(payload, content))
            fault = classify(status, payload, message, wait)
            if isinstance(fault, RunStopped):
                raise RunStopped(f"client {self._name!r}, {self.endpoint}: {fault}")
            if isinstance(fault, Refused):
                self._heard = True
                return Reply("refused", error=str(fault), dialect=dialect.name, seconds=seconds)
            raise fault

    async def _admission(self, request: Request, size: int) -> None:
        """Wait for the rate limits, and for the end of what a Retry-After asked for."""
        while (pause := self._quiet_until - time.monotonic()) > 0:
            await asyncio.sleep(pause + random.uniform(0, 0.25))
        if self._requests is not None:
            await self._requests.acquire(1)
        if self._tokens is not None:
            expected = size / 4 + float(request.sampling.get("max_tokens") or 0)
            await self._tokens.acquire(min(expected, self._tokens.max_rate))

    async def _post(self, body: bytes, model: str) -> tuple[int, Any, bytes]:
        try:
            url = self._target.url_for(model)
            async with self._session.post(url, data=body, headers=self._target.headers) as response:
                return response.status, response.headers, await response.read()
        except TimeoutError:
            raise Again(f"no answer within {self._settings.timeout:g} s") from None
        except aiohttp.ClientConnectorError as fault:
            raise Again(f"no connection ({fault.os_error.strerror or fault.os_error})", no_contact=True) from None
        except aiohttp.InvalidURL:
            raise RunStopped(f"client {self._name!r}: {self.endpoint} is not a URL") from None
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
        parts = [f"{old}={new}" for old, new in sorted(self.renamed.items())]
        return " ".join(parts + [f"-{name}" for name in sorted(self.dropped)])

    def body(self, request: Request) -> dict[str, Any]:
        """The request as it is posted."""
        body: dict[str, Any] = {"model": request.model, "messages": request.messages}
        for name, value in request.sampling.items():
            if name not in self.dropped:
                body[self.renamed.get(name, name)] = value
        return body

    def learn(self, name: str) -> bool:
        """Leave a parameter out, or rename it; False if another reply has taught that already."""
        if name == "max_tokens":
            new = name not in self.renamed
            self.renamed[name] = "max_completion_tokens"
        else:
            new = name not in self.dropped
            self.dropped.add(name)
        return new


@dataclass(frozen=True, slots=True)
class Target:
    """Where to post, and with which headers."""

    url: str
    headers: dict[str, str]
    secrets: tuple[str, ...]

    def url_for(self, model: str) -> str:
        """The address for a model: Azure has one for each deployment."""
        return self.url.replace("{model}", model)

    def redacted(self, message: str) -> str:
        """A server's message without the key, should it repeat it."""
        for secret in self.secrets:
            message = message.replace(secret, "***")
        return message


def _target(name: str, settings: OpenAIClientSettings) -> Target:
    if settings.azure_endpoint is not None:
        return _azure(name, settings)
    base = settings.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL
    key = _key(name, settings.api_key_env, "OPENAI_API_KEY")
    if not base.startswith(("http://", "https://")):
        raise ConfigError(f"client {name!r}: base_url is {base!r}, expected http:// or https://")
    if key is None and base == OPENAI_URL:
        raise ConfigError(
            f"client {name!r}: no key for {OPENAI_URL}. Set OPENAI_API_KEY, or name another variable with api_key_env, "
            "or point OPENAI_BASE_URL at a server of your own."
        )
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return Target(f"{base.rstrip('/')}/chat/completions", headers, (key,) if key else ())


def _azure(name: str, settings: OpenAIClientSettings) -> Target:
    from openai import AsyncAzureOpenAI

    key = _key(name, settings.api_key_env, "AZURE_OPENAI_API_KEY")
    if key is None or settings.api_version is None or settings.azure_endpoint is None:
        raise ConfigError(f"client {name!r}: Azure needs api_version, and a key in AZURE_OPENAI_API_KEY or api_key_env")
    azure = AsyncAzureOpenAI(azure_endpoint=settings.azure_endpoint, api_version=settings.api_version, api_key=key)
    query = "&".join(f"{name}={value}" for name, value in azure.default_query.items())
    url = f"{str(azure.base_url).rstrip('/')}/deployments/{{model}}/chat/completions?{query}"
    return Target(url, {"api-key": key}, (key,))


def _key(name: str, variable: str | None, default: str) -> str | None:
    key = os.environ.get(variable or default, "").strip() or None
    if variable is not None and key is None:
        raise ConfigError(f"client {name!r}: api_key_env names {variable}, which is not set")
    return key


def _limiter(per_minute: float | None, burst_seconds: float) -> AsyncLimiter | None:
    """A rate spread evenly, but for bursts of what some seconds allow (and at least one request)."""
    if per_minute is None:
        return None
    burst = max(1.0, per_minute * burst_seconds / 60)
    return AsyncLimiter(burst, burst * 60 / per_minute)


def _wait(state: RetryCallState) -> float:
    """What the server asked for, or else twice as long each time up to a minute; with jitter either way."""
    fault = state.outcome.exception() if state.outcome else None
    asked = fault.after if isinstance(fault, Again) else None
    if asked is not None:
        return asked + random.uniform(0, 0.5)
    return random.uniform(0.5, 1.0) * min(60.0, 0.5 * 2.0**state.attempt_number)


def _json(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return None


def _message(payload: Any, content: bytes) -> str:
    error = payload.get("error") if isinstance(payload, dict) else None
    found = error.get("message") if isinstance(error, dict) else error
    if found is None and isinstance(payload, dict):
        found = payload.get("message") or payload.get("detail")
    text = str(found) if found else content[:200].decode(errors="replace")
    return " ".join(text.split())[:500]


def _reply(content: bytes, dialect: str, seconds: float) -> Reply:
    """A reply from a chat completion; anything else that comes with status 200 is worth another attempt."""
    found = _json(content)
    payload = found if isinstance(found, dict) else {}
    choices = payload.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        shown = " ".join(content[:80].decode(errors="replace").split())
        raise Again(f"status 200 without a chat completion: {shown!r}")
    return Reply(
        "ok",
        _text(message.get("content")),
        _word(choice.get("finish_reason")),
        _word(message.get("refusal")),
        _word(message.get("reasoning_content") or message.get("reasoning")),
        model=str(payload.get("model") or ""),
        fingerprint=_word(payload.get("system_fingerprint")),
        dialect=dialect,
        usage=_usage(payload.get("usage")),
        seconds=seconds,
    )


def _text(content: object) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _word(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _usage(usage: object) -> Usage:
    if not isinstance(usage, dict):
        return Usage()
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    return Usage(_count(usage.get("prompt_tokens")), _count(cached), _count(usage.get("completion_tokens")))


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0
