"""Files and batches at a server with OpenAI's Batch API, through the `openai` package."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import openai
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from relabel import __version__
from relabel.clients.batches.spool import Part
from relabel.clients.errors import Again, classify, complaint
from relabel.clients.target import Target
from relabel.errors import RunStopped
from relabel.text import well_formed

T = TypeVar("T")

_FIRST_WAIT, _LONGEST_WAIT = 0.25, 60.0
_PATIENCE = (10.0, 3600.0)
"""Seconds for which a server that fails is asked again: one that has never answered, and one that has."""

ENDED = ("completed", "failed", "expired", "cancelled")


class NotThere(RunStopped):
    """The server has no such thing, or none that this key may see."""


@dataclass(frozen=True, slots=True)
class Batch:
    """How a batch stands; `files` are those with its replies and its errors, in this order."""

    id: str
    status: str
    files: tuple[str, ...] = ()
    done: int = 0
    code: str = ""
    words: str = ""


class Provider:
    """What a batch client asks of a server. Each method raises RunStopped when it cannot be had."""

    def __init__(self, name: str, target: Target, timeout: float, poll_every: float) -> None:
        self.endpoint = f"{target.endpoint.removesuffix('/chat/completions')}/batches"
        self.mask = target.masked
        self._name = name
        self._target = target
        self._timeout = timeout
        self._poll_every = poll_every
        self._heard = False
        self._halted = asyncio.Event()

    def open(self) -> None:
        """Make the connection pool; no connection is opened yet."""
        self._client = openai.AsyncOpenAI(
            api_key="none",
            base_url=self._target.url.removesuffix("/chat/completions"),
            timeout=openai.Timeout(self._timeout, connect=10.0),
            max_retries=0,
            default_headers={**self._target.headers, "User-Agent": f"relabel/{__version__}"},
        )

    def halt(self) -> None:
        """Give up whatever is waited for."""
        self._halted.set()

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def sleep(self, seconds: float) -> None:
        """Wait, unless the run stops: RunStopped."""
        await self._unless_halted(asyncio.sleep(seconds))

    async def upload(self, path: Path) -> str:
        """The id of the file as the server has it now."""

        async def attempt() -> str:
            with path.open("rb") as file:
                made = await self._client.files.create(file=(path.name, file, "application/jsonl"), purpose="batch")
            return _id(made)

        try:
            return await self._ask(attempt)
        except NotThere as fault:
            advice = (
                "`kind: batch` needs a server that takes files and batches; `submit: false` writes files for others"
            )
            raise NotThere(f"{fault} Check base_url (or OPENAI_BASE_URL): {advice}.") from None

    async def create(self, part: Part, *, doubtful: bool) -> Batch:
        """The batch of a part. Where there may be one already, as a response went astray, that one is looked for."""
        assert part.file is not None
        metadata = {"made_by": f"relabel {__version__}", "relabel_part": part.name}

        async def attempt() -> Batch:
            nonlocal doubtful
            if doubtful and (found := await self._look_twice(part)) is not None:
                return found
            doubtful = True
            made = await self._client.batches.create(
                input_file_id=str(part.file),
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata=metadata,
            )
            return self._batch(made)

        return await self._ask(attempt)

    async def find(self, part: Part) -> Batch | None:
        """The batch that was created from a part's file, if there is one."""
        return await self._ask(lambda: self._look(part))

    async def _look_twice(self, part: Part) -> Batch | None:
        """A list may lag behind what was created a moment ago."""
        if (found := await self._look(part)) is None:
            await asyncio.sleep(min(10.0, self._poll_every))
            found = await self._look(part)
        return found

    async def _look(self, part: Part) -> Batch | None:
        try:
            async for one in self._client.batches.list(limit=100):
                metadata = getattr(one, "metadata", None)
                name = metadata.get("relabel_part") if isinstance(metadata, dict) else None
                if name == part.name or (part.file and getattr(one, "input_file_id", None) == part.file):
                    return self._batch(one)
        except (TypeError, AttributeError):  # raised by the package, which takes anything for a page
            raise ValueError("no list") from None
        return None

    async def batch(self, identity: str) -> Batch:
        """How a batch stands. Raises NotThere."""
        return await self._ask(lambda: self._retrieve(identity))

    async def _retrieve(self, identity: str) -> Batch:
        return self._batch(await self._client.batches.retrieve(identity))

    async def cancel(self, identity: str) -> bool:
        """Have a batch end before its time; false where it has ended. Raises NotThere."""
        if (await self.batch(identity)).status in ENDED:
            return False
        await self._ask(lambda: self._client.batches.cancel(identity))
        return True

    async def download(self, file: str, path: Path) -> None:
        """A file's content, into a file."""

        async def attempt() -> None:
            async with self._client.files.with_streaming_response.content(file) as response:
                with path.open("wb") as out:
                    async for block in response.iter_bytes(1 << 20):
                        out.write(block)

        await self._ask(attempt)

    async def delete(self, file: str) -> None:
        """Have a file deleted, if that can be had at once."""
        with suppress(Again, RunStopped):
            await self._unless_halted(self._once(lambda: self._client.files.delete(file)))

    async def _ask(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """What comes of an attempt, of several if need be."""
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(Again),
            stop=lambda state: (state.seconds_since_start or 0.0) > _PATIENCE[self._heard],
            wait=_pause,
            sleep=self.sleep,
            retry_error_callback=self._give_up,
        )

        async def try_once() -> T:
            return await self._unless_halted(self._once(attempt))

        return await retrying(try_once)

    def _give_up(self, state: RetryCallState) -> Any:
        fault = state.outcome.exception() if state.outcome else None
        raise self._stopped(
            f"{fault} ({state.attempt_number} attempts). Is it up, and is base_url (or OPENAI_BASE_URL) right?"
        )

    def _stopped(self, reason: str, kind: type[RunStopped] = RunStopped) -> RunStopped:
        return kind(f"client {self._name!r}, {self.endpoint}: {reason}")

    async def _once(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """One attempt, with the package's errors in our words."""
        try:
            found = await attempt()
        except openai.APIStatusError as fault:
            raise self._meaning(fault) from None
        except openai.APITimeoutError:
            raise Again(f"no answer within {self._timeout:g} s") from None
        except openai.APIConnectionError as fault:
            raise Again(f"no connection ({self.mask(str(fault.__cause__ or fault))})") from None
        except (openai.OpenAIError, ValueError) as fault:
            raise Again(f"nothing that a Batch API would send ({type(fault).__name__})") from None
        except OSError as fault:
            raise self._stopped(f"{fault.filename or 'a file'}: {fault.strerror or fault}") from None
        except Exception as fault:
            if type(fault).__module__.partition(".")[0] not in ("httpx", "httpx2", "httpcore", "anyio"):
                raise
            raise Again(f"the connection broke ({type(fault).__name__})") from None  # amid a body
        self._heard = True
        return found

    def _meaning(self, fault: openai.APIStatusError) -> Exception:
        said = complaint(fault.status_code, fault.response.headers, fault.response.content, self.mask)
        meant = classify(said)
        if isinstance(meant, Again):
            return meant
        if said.status in (404, 405, 410, 501):
            return self._stopped(f"{str(said).rstrip('. ')}.", NotThere)
        return self._stopped(str(meant) if isinstance(meant, RunStopped) else f"{str(said).rstrip('. ')}.")

    async def _unless_halted(self, work: Awaitable[T]) -> T:
        task, halted = asyncio.ensure_future(work), asyncio.ensure_future(self._halted.wait())
        try:
            await asyncio.wait({task, halted}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise self._stopped("the run has been stopped")
            return task.result()
        finally:
            task.cancel()
            halted.cancel()

    def _batch(self, made: object) -> Batch:
        """What the server says of a batch, whatever else it may say."""
        status = getattr(made, "status", None)
        if not isinstance(status, str):
            raise ValueError("no status")
        files = (getattr(made, name, None) for name in ("output_file_id", "error_file_id"))
        done = getattr(getattr(made, "request_counts", None), "completed", 0)
        faults = getattr(getattr(made, "errors", None), "data", None)
        found = [one for one in faults if one is not None] if isinstance(faults, list) else []
        words = [str(getattr(one, "message", None) or getattr(one, "code", None) or "") for one in found[:3]]
        codes = [code for one in found if isinstance(code := getattr(one, "code", None), str)]
        return Batch(
            _id(made),
            status,
            tuple(file for file in files if isinstance(file, str) and file),
            done if type(done) is int else 0,
            codes[0] if codes else "",
            self.mask(well_formed("; ".join(filter(None, words))))[:500],
        )


def _id(made: object) -> str:
    identity = getattr(made, "id", None)
    if not isinstance(identity, str) or not identity:
        raise ValueError("no id")
    return identity


def _pause(state: RetryCallState) -> float:
    fault = state.outcome.exception() if state.outcome else None
    if isinstance(fault, Again) and fault.after is not None:
        return fault.after
    return min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** (state.attempt_number - 1))
