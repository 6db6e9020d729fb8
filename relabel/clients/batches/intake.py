"""From the files of a batch into the ledger: each line to its call, once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

from relabel.clients import Desk
from relabel.clients.batches.lines import Line, read_lines
from relabel.clients.batches.spool import Part, Spool
from relabel.clients.dialect import Dialect
from relabel.clients.errors import Complaint, Refused, classify, unsupported
from relabel.errors import RunStopped
from relabel.records import Call, Reply

_SHOWN = 3
"""Odd lines of one kind that are named."""

_AT_ONCE = 500
"""So many replies are stored together."""

_CANCELLED = "batch_cancelled"
"""OpenAI's code for a request that nobody came to before its batch was cancelled."""

Miss = tuple[bool, str]
"""That there is no reply: whether it counts as a try, and what was said."""


class Intake:
    """Takes in what came back for one part. A line for a call that has been seen to is passed over."""

    def __init__(
        self,
        spool: Spool,
        part: Part,
        desk: Desk,
        dialect: Dialect,
        say: Callable[[str], None],
        mask: Callable[[str], str] = str,
        *,
        whole: bool = True,
    ) -> None:
        """`dialect` learns from what came back. If the files are not `whole`, replies are taken and nothing else."""
        self.replies = 0
        self.known = 0
        """Lines for requests of this part, seen to before or not."""
        self.unread = 0
        """Lines that say nothing about any request."""
        self.fatal = ""
        """What was said that no request will ever get past."""
        self._spool, self._part, self._desk = spool, part, desk
        self._dialect, self._sent = dialect, Dialect.named(part.dialect)
        self._say, self._mask, self._whole = say, mask, whole
        self._without: Counter[str] = Counter()
        self._odd: Counter[str] = Counter()
        self._places: dict[str, list[str]] = {}

    async def read(self, path: Path) -> bool:
        """Take in a file; whether every line could be read. Raises LedgerError, OSError."""
        lines: dict[str, Line] = {}
        sound = True
        for number, line in read_lines(path, self._mask):
            if line is None:
                sound = False
                self.unread += 1
                self._note("cannot be read", f"line {number}")
                continue
            if line.key in lines:
                self._note("for a request that another line has answered", f"line {number}")
                continue
            lines[line.key] = line
            if len(lines) >= _AT_ONCE:
                await self._take(lines)
                lines = {}
        if lines:
            await self._take(lines)
        return sound

    def _note(self, what: str, where: str) -> None:
        self._odd[what] += 1
        if self._odd[what] <= _SHOWN:
            self._places.setdefault(what, []).append(where)

    async def _take(self, lines: dict[str, Line]) -> None:
        calls = self._spool.named(self._part, lines)
        self.known += len(calls)
        taken: dict[str, Reply] = {}
        failed: dict[str, Miss] = {}
        for key, line in lines.items():
            if key not in calls:
                self._note("for no request of it", repr(self._mask(key)[:80]))
            elif (call := calls[key]) is not None:
                found = self._resolve(call, line)
                if isinstance(found, Reply):
                    taken[key] = found
                    self.replies += 1
                elif self._whole:
                    failed[key] = found
        await asyncio.gather(*(self._store(calls[key], taken.get(key)) for key in (*taken, *failed)))
        self._count(taken, failed)

    async def _store(self, call: Call | None, reply: Reply | None) -> None:
        assert call is not None
        await self._desk.store(call, reply)

    def _count(self, taken: dict[str, Reply], failed: dict[str, Miss]) -> None:
        self._spool.take(taken, failed)
        self._without.update(words for _, words in failed.values())

    async def rest(self, words: str, *, counts: bool) -> None:
        """Nothing came back for the calls that are left, for this reason."""
        calls = self._spool.calls(self._part)
        while missed := list(islice(calls, _AT_ONCE)):
            await asyncio.gather(*(self._store(call, None) for call in missed))
            self._count({}, {call.request.key: (counts, words) for call in missed})

    def _resolve(self, call: Call, line: Line) -> Reply | Miss:
        """What a line comes to: a reply, or none."""
        spoken, sent = self._sent.body(call.request)
        found = line.found
        if isinstance(found, Reply):
            for news in self._dialect.heard(call.request, sent, found):
                self._say(f"{self._part.model} {news}")
            return replace(found, dialect=self._dialect.name_of(spoken, sent))
        words = str(found) if found.status else ": ".join(filter(None, (found.code, found.message))) or "no response"
        if not found.status:
            return found.code != _CANCELLED, words
        if found.status == 200:
            return True, "status 200 without a chat completion"
        if (name := unsupported(found, sent, self._dialect.taken)) is not None:
            return self._learn(call, name, found, sent), words
        meant = classify(found)
        if isinstance(meant, RunStopped) and found.status in (400, 403) and self.replies:
            meant = Refused(words)  # others were answered: this is about the request
        if isinstance(meant, Refused):
            return Reply("refused", error=str(meant), dialect=spoken)
        if isinstance(meant, RunStopped):
            self.fatal = str(meant)
        return True, words

    def _learn(self, call: Call, name: str, said: Complaint, sent: dict[str, object]) -> bool:
        """Adapt to what the model does not take; false, as the request will be put in another way next time."""
        if name in self._dialect.optional() and self._dialect.learn(name):
            self._say(f"{self._part.model} does not take {name!r}: left out or renamed ({said.message[:120]})")
        if self._dialect.body(call.request)[1] == sent:
            self.fatal = f"{said}. Take {name!r} out of the tier's extra_body."
            return True
        return False

    def __str__(self) -> str:
        """What came of it, in words."""
        words = f"{self.replies:,} replies to {self._part.requests:,} requests of {self._part.model}"
        for what, count in self._without.most_common(_SHOWN):
            words += f"; {count:,} without: {what}"
        for what, count in self._odd.items():
            lines = "1 line" if count == 1 else f"{count:,} lines"
            words += f"; {lines} {what} ({', '.join(self._places[what])})"
        return words
