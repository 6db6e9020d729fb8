"""One server that speaks the OpenAI chat completions API: a request is posted to it once, and what comes is understood.

The wire format and the meaning of errors are those of the `openai` package; requests are posted through aiohttp, which
costs a tenth of the time.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import aiohttp
import orjson

from relabel.clients.dialect import Dialect
from relabel.clients.errors import Again, Complaint, Refused, classify, complaint, is_plain, unsupported
from relabel.clients.flow import Flow
from relabel.clients.target import Target
from relabel.clients.wire import reply_of
from relabel.errors import RunStopped
from relabel.records import Reply, Request
from relabel.settings import ServerSettings

_NOBODY = "Is it up, and is base_url (or OPENAI_BASE_URL) right?"
_NO_API = "That is no chat completions API: check base_url (or OPENAI_BASE_URL), or a proxy or log-in page on the way."

_LARGEST = 32 << 20
"""More bytes than any chat completion has."""


class Server:
    """Where to post, when it may be done, and in which dialect: one for each model."""

    def __init__(self, name: str, target: Target, settings: ServerSettings, say: Callable[[str], None]) -> None:
        """`name` is the client's."""
        self.endpoint = target.endpoint
        self._name = name
        self._target = target
        self._settings = settings
        self._say = say
        self._dialects: dict[str, Dialect] = {}
        self._trying: dict[str, asyncio.Lock] = {}
        self.strikes = 0
        """Errors in a row that say that nothing will ever work."""

    def open(self, session: aiohttp.ClientSession) -> None:
        """Use these connections."""
        self._session = session
        self.flow = Flow(self.endpoint, self._settings, self._say)

    @property
    def gone(self) -> bool:
        """Whether no request to it will ever be answered."""
        return self.flow.patience.ended

    async def once(self, request: Request) -> Reply:
        """One attempt, and again at once for each parameter that the model turns out not to take.

        Raises Again when another may succeed, RunStopped when none will.
        """
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
                self.flow.heard = True
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
        self.flow.answered(seconds)
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
            self.flow.refused(str(found), found.wait)
        fault = classify(found)
        if found.status < 500:
            self.flow.alive()
        elif isinstance(fault, Again):
            return self._failed(fault)
        if not isinstance(fault, RunStopped):
            return fault
        if self.flow.heard and found.status in (400, 403):
            return Refused(str(found))  # it has answered others: this is about the request, not about us
        return Again(str(fault), fatal=True) if self.flow.heard else self._stopped(str(fault))

    def _failed(self, fault: Again) -> Again | RunStopped:
        """What a failure means that may be the server's: another attempt, until it has been down for too long."""
        hopeless = self.flow.failed(str(fault))
        return self._stopped(hopeless) if hopeless else fault

    async def _exchange(self, request: Request, body: bytes) -> tuple[int, Mapping[str, str], bytes, float]:
        """Status, headers, content and seconds of one post, once it may be made."""
        await self.flow.enter(len(body) / 4 + float(request.sampling.get("max_tokens") or 0))
        started = time.monotonic()
        try:
            status, headers, content = await self._post(body, request)
        except Again as fault:
            raise self._failed(fault) from None
        finally:
            self.flow.leave()
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
        self.flow.patience.end(message)
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
            self.flow.refused("no answer", None)
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
