"""Parts that a server with OpenAI's Batch API answers.

The id of a part's file is stored just before its batch is created, the batch's id just after: where only the former is
known, there may be a batch, and it is looked for before another is created. Nothing is paid for before that.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable

from relabel.clients import Desk
from relabel.clients.batches.parts import Parts
from relabel.clients.batches.provider import ENDED, Batch, NotThere, Provider
from relabel.clients.batches.spool import Part
from relabel.errors import RunStopped

_FULL = "token_limit_exceeded"
"""OpenAI's code for a batch that has no room beside those that wait already."""

_LOOKS = 3
"""So many times is a batch looked at that has ended without the answers that it counts."""

_SAID_EVERY = 600.0
"""Seconds between two words on how far the batches are."""


class Submitted:
    """Submits parts, and waits for all batches that are under way."""

    def __init__(self, parts: Parts, provider: Provider, poll_every: float) -> None:
        self._parts = parts
        self._provider = provider
        self._poll_every = poll_every
        self._waiting: deque[Part] = deque()
        self._under_way: dict[int, Part] = {}
        self._done: dict[int, int] = {}
        self._cancelled: list[str] = []
        self._full = False
        self._ended = 0
        self._short: Counter[int] = Counter()
        self._since: dict[int, int] = {}
        """How many batches had ended when a part was submitted."""

    async def settle(self, before: Iterable[Part], made: Iterable[Part], desk: Desk) -> None:
        """See all parts through: those from before, and those that were made just now. Raises RunStopped."""
        self._waiting = deque(made)
        self._under_way = {part.id: part for part in before}
        said = time.monotonic()
        try:
            while self._under_way or self._waiting:
                await self._submit()
                for part in tuple(self._under_way.values()):
                    await self._look_after(part, desk)
                if self._under_way:
                    if time.monotonic() - said > _SAID_EVERY:
                        said = time.monotonic()
                        self._parts.say(self._how_far())
                    await self._provider.sleep(self._poll_every)
        except RunStopped:
            if self._under_way:
                self._parts.say(f"{self._how_far()} They go on at the server; running again takes them in.")
            raise
        if self._cancelled:
            raise RunStopped(
                f"cancelled: {', '.join(self._cancelled)}. What was answered by then is taken in, the rest has not "
                "been asked again."
            )

    def _how_far(self) -> str:
        requests = sum(part.requests for part in self._under_way.values())
        done = sum(self._done.get(number, 0) for number in self._under_way)
        known = [part.batch for part in self._under_way.values() if part.batch]
        names = ", ".join(known[:3]) + (" …" if len(known) > 3 else "")
        number = len(self._under_way)
        return f"{self._provider.endpoint}: {number:,} under way ({names}), {done:,} of {requests:,} requests done."

    async def _submit(self) -> None:
        """Have batches created for the parts that wait, as long as there is room for them."""
        self._full &= bool(self._under_way)
        while self._waiting and not self._full:
            part = self._waiting.popleft()
            self._since[part.id] = self._ended
            file = await self._provider.upload(self._parts.file(part))
            part = self._under_way[part.id] = self._parts.spool.tell(part, file=file)
            batch = await self._provider.create(part, doubtful=False)
            self._under_way[part.id] = self._parts.spool.tell(part, batch=batch.id)
            self._parts.say(f"{batch.id}: {part.requests:,} requests of {part.model}")

    async def _look_after(self, part: Part, desk: Desk) -> None:
        """See how a part stands, and take it in once its batch has ended."""
        if part.batch is None:
            found = await self._find(part)
            if found is None:
                del self._under_way[part.id]
                await self._parts.intake(part, desk).rest("it was never submitted", counts=False)
                self._parts.forget(part)
                return
            part = self._under_way[part.id] = self._parts.spool.tell(part, batch=found.id)
        batch = await self._known(part)
        self._done[part.id] = batch.done
        if batch.status == "failed":
            del self._under_way[part.id]
            await self._failed(part, batch)
        elif batch.status in ENDED:
            await self._take_in(part, batch, desk)
            self._ended += 1
            self._full = False

    async def _find(self, part: Part) -> Batch | None:
        """The batch that an earlier process may have created; a new one if not, and somebody still wants it."""
        try:
            if not self._parts.spool.wanted(part):
                return await self._provider.find(part)
            return await self._provider.create(part, doubtful=True)
        except RunStopped as fault:
            raise RunStopped(f"{fault} {self._other_key(f'the file {part.file}')}") from None

    async def _known(self, part: Part) -> Batch:
        try:
            return await self._provider.batch(str(part.batch))
        except NotThere as fault:
            raise RunStopped(f"{fault} {self._other_key(f'the batch {part.batch}')}") from None

    def _other_key(self, thing: str) -> str:
        return (
            f"This run has submitted {thing}: was that with another key, or to another server? Run again with that "
            f"one. To have all that is under way asked, and paid, anew, delete {self._parts.spool.path}."
        )

    async def _failed(self, part: Part, batch: Batch) -> None:
        """No request of the batch was looked at. It is tried again if only room was wanting."""
        await self._provider.delete(str(part.file))
        if batch.code == _FULL and (self._under_way or self._ended > self._since.get(part.id, 0)):
            self._full = True
            self._waiting.append(self._parts.spool.take_back(part))
            return
        self._parts.forget(part)
        room = " Lower requests_per_file, or run again later." if batch.code == _FULL else ""
        words = f"{batch.code}: {batch.words}" if batch.code else batch.words or "no reason given"
        raise RunStopped(f"the batch {batch.id} failed as a whole: {words.rstrip('. ')}.{room}")

    async def _take_in(self, part: Part, batch: Batch, desk: Desk) -> None:
        """Take in all files of a batch that has ended, whether all of its requests were answered or not."""
        intake = self._parts.intake(part, desk)
        for nth, file in enumerate(batch.files):
            path = self._parts.file(part, f"{nth}.download")
            try:
                await self._provider.download(file, path)
            except NotThere as fault:
                raise RunStopped(f"{fault} {self._other_key(f'the batch {batch.id}')}") from None
            if await intake.read(path):
                path.unlink()
            else:
                kept = path.replace(self._parts.file(part, f"{nth}.unread.jsonl"))
                self._parts.say(f"{batch.id}: {kept} is kept, as it has lines that cannot be read")
        if self._falls_short(part, batch, intake.known + intake.unread):
            return
        cancelled = batch.status == "cancelled"
        await intake.rest(f"{batch.status}, and no line says why", counts=not cancelled)
        self._parts.forget(part)
        del self._under_way[part.id]
        self._parts.say(f"{batch.id}: {batch.status}; {intake}")
        await self._provider.delete(str(part.file))
        if cancelled:
            self._cancelled.append(batch.id)
            self._waiting.clear()
        if intake.fatal and not intake.replies:
            raise RunStopped(f"the batch {batch.id} has no reply: {intake.fatal}")

    def _falls_short(self, part: Part, batch: Batch, lines: int) -> bool:
        """Whether fewer lines came back than the server says it has answered: then it is asked for them again, before
        anything is paid anew. Raises RunStopped when that is of no use.
        """
        if lines >= min(batch.done, part.requests) and (batch.files or batch.status != "completed"):
            return False
        self._short[part.id] += 1
        if self._short[part.id] < _LOOKS:
            return True
        raise RunStopped(
            f"the batch {batch.id} is {batch.status} with {batch.done:,} requests done, and its files hold {lines:,}. "
            "Running again looks once more. To have the rest asked, and paid, anew, delete "
            f"{self._parts.spool.path}."
        )

    async def cancel(self, parts: Iterable[Part]) -> list[str]:
        """Cancel the batches of these parts; returns their ids."""
        found: list[str] = []
        for part in parts:
            batch = part.batch or getattr(await self._provider.find(part), "id", None)
            if batch is not None and await self._provider.cancel(batch):
                found.append(batch)
        return found
