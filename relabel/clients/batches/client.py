"""Calls that are answered in batches: by OpenAI's Batch API, or by whoever answers a file.

A batch takes up to a day, so nothing but the pass over the source waits for it. What must outlast this process lies in
the run's folder: which call is in which part (`batches.sqlite`), and the parts themselves (`batches/`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from relabel.clients import Desk
from relabel.clients.batches.parts import TRIES, Parts
from relabel.clients.batches.provider import Provider
from relabel.clients.batches.spool import SPOOL, Part
from relabel.clients.batches.submitted import Submitted
from relabel.clients.batches.written import Written
from relabel.clients.target import find_target
from relabel.errors import LedgerError, RunStopped, Unanswered
from relabel.records import Call, Reply, Request
from relabel.settings import BatchClientSettings, OpenAIClientSettings


class BatchClient:
    """Puts every call off, and has them answered between two passes over the source."""

    concurrency = 16

    def __init__(self, name: str, settings: BatchClientSettings, say: Callable[[str], None], folder: Path) -> None:
        self._name = name
        self._settings = settings
        self._say = say
        self._run = folder
        self._provider = _provider(name, settings) if settings.submit else None
        self.endpoint = self._provider.endpoint if self._provider else "batch-file"

    async def open(self) -> None:
        """Take up what an earlier process left under way. Raises LedgerError."""
        mask = self._provider.mask if self._provider else str
        self._parts = Parts(self._name, self._settings, self._run, self._say, mask)
        self._parts.spool.begin()
        if self._provider:
            self._provider.open()

    def puts_off(self, call: Call) -> bool:
        """Keep the call for the end of the pass."""
        self._parts.spool.put(call)
        return True

    async def send(self, request: Request, near: str = "") -> Reply:
        """Nothing is ever sent by itself."""
        raise Unanswered(f"client {self._name!r} answers in batches only")

    def halt(self) -> None:
        """Wait for no batch any more; those under way go on at the server."""
        if self._provider:
            self._provider.halt()

    async def close(self) -> None:
        """Close the file and the connections."""
        self._parts.close()
        if self._provider:
            await self._provider.close()

    async def settle(self, desk: Desk) -> None:
        """Have what was put off answered, as far as that goes."""
        spool = self._parts.spool
        try:
            spool.flush()
            before = await self._from_before(desk)
            if self._provider is None and await Written(self._parts).take_in(desk):
                spool.rest()  # what the replies lead to comes in the next pass: one file for all of it
                return
            made = await self._parts.make(desk, told=self._provider is None)
            if self._provider:
                await Submitted(self._parts, self._provider, self._settings.poll_every).settle(before, made, desk)
            else:
                Written(self._parts).ask()
        except OSError as fault:
            place = fault.filename or self._parts.folder
            raise LedgerError(f"{place}: {fault.strerror or fault}. What was stored before is safe.") from None
        if not before and not made:
            self._give_up()
        spool.rest()

    async def _from_before(self, desk: Desk) -> list[Part]:
        """The parts that others know of, if they are still to be answered in the same way."""
        found = self._parts.count(desk)
        submitted = [part for part in found if part.file is not None]
        if self._provider is None and submitted:
            raise RunStopped(
                f"client {self._name!r}: {len(submitted):,} parts of this run are under way at a server; run with "
                "`submit: true` to take them in."
            )
        for part in found:
            if self._provider is not None and part.file is None:
                await self._parts.intake(part, desk).rest("it was written for others", counts=False)
                self._parts.forget(part)
        return submitted if self._provider else found

    def _give_up(self) -> None:
        count, said = self._parts.spool.given_up(TRIES)
        if count:
            raise RunStopped(
                f"client {self._name!r}: {count:,} requests came out of {TRIES} batches without a reply, at last: "
                f"{said}. They are asked as often again."
            )


async def cancel(name: str, settings: BatchClientSettings, folder: Path, say: Callable[[str], None]) -> list[str]:
    """Cancel the batches of a run that are under way, whether a process waits for them or not; returns their ids."""
    if not settings.submit or not (folder / SPOOL).exists():
        return []
    provider = _provider(name, settings)
    parts = Parts(name, settings, folder, say, provider.mask)
    provider.open()
    try:
        told = (part for part in parts.spool.parts() if part.file)
        return await Submitted(parts, provider, settings.poll_every).cancel(told)
    finally:
        parts.spool.close()
        await provider.close()


def _provider(name: str, settings: BatchClientSettings) -> Provider:
    given = OpenAIClientSettings(kind="openai", base_url=settings.base_url, api_key_env=settings.api_key_env)
    return Provider(name, find_target(name, given), settings.timeout, settings.poll_every)
