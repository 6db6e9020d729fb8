"""The parts of a batch client: files of requests that calls are put into, and that replies are taken in for."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

from relabel.clients import Desk
from relabel.clients.batches.intake import Intake
from relabel.clients.batches.lines import request_line
from relabel.clients.batches.spool import Part, Spool
from relabel.clients.dialect import Dialect
from relabel.errors import RunStopped
from relabel.records import Request
from relabel.settings import BatchClientSettings

FOLDER = "batches"

TRIES = 3
"""A request that came out of so many batches without a reply is given up."""

_LEFT_BEHIND = re.compile(r"\d{4,}\.(jsonl(\.new)?|\d\.download)")
"""Names of files that this module and its kin write for themselves."""


class Parts:
    """Makes parts of the calls that wait, in the run's folder."""

    def __init__(
        self,
        name: str,
        settings: BatchClientSettings,
        run: Path,
        say: Callable[[str], None],
        mask: Callable[[str], str],
    ) -> None:
        self.name = name
        self.spool = Spool(run, name)
        self.folder = run / FOLDER
        self.say = say
        self._settings = settings
        self._mask = mask
        self._dialects: dict[str, Dialect] = {}
        self._counted: set[int] = set()

    def count(self, desk: Desk) -> list[Part]:
        """All parts from before: their calls are counted as sent, and those whose replies were stored are noted."""
        found = self.spool.parts()
        for part in found:
            if part.id not in self._counted:
                self._counted.add(part.id)
                self._dialects[part.model] = Dialect.named(part.dialect)
                calls = self.spool.calls(part)
                self.spool.take([call.request.key for call in calls if not desk.admit(call, sent=True)], {})
        return found

    async def make(self, desk: Desk, *, told: bool) -> list[Part]:
        """As few parts as their limits allow, of the calls that wait and that the budget has room for.

        They are `told` if somebody may answer them as soon as they are there. Raises RunStopped, OSError.
        """
        self.folder.mkdir(exist_ok=True)
        self._tidy()
        parts: list[Part] = []
        draft: _Draft | None = None
        try:
            async for request, spoken, line in self._admitted(desk):
                if draft is not None and not self._fits(draft, request.model, line):
                    parts.append(self._add(draft, told))
                    draft = None
                if draft is None:
                    draft = _Draft(self._number(), self.folder, request.model, spoken)
                draft.add(request.key, line)
            return [*parts, self._add(draft, told)] if draft is not None else parts
        finally:
            if draft is not None:
                draft.close()

    async def _admitted(self, desk: Desk) -> AsyncIterator[tuple[Request, str, bytes]]:
        """The requests that wait and that the budget has room for, each with its dialect and its line."""
        most = self._settings.megabytes_per_file * 1e6
        for nth, call in enumerate(self.spool.pending(TRIES)):
            if nth % 100 == 0:
                await asyncio.sleep(0)
            if not desk.admit(call):
                return
            spoken, body = self._dialect(call.request.model).body(call.request)
            line = request_line(call.request, body)
            if len(line) > most:
                raise RunStopped(
                    f"client {self.name!r}: a request takes {len(line):,} bytes, and a file may hold {most:,.0f}; "
                    "raise megabytes_per_file."
                )
            yield call.request, spoken, line

    def _tidy(self) -> None:
        """Remove what a process left that was killed before anybody was told."""
        known = {f"{number:04d}.jsonl" for number in self.spool.numbers()}
        for path in self.folder.iterdir():
            if _LEFT_BEHIND.fullmatch(path.name) and path.name not in known:
                path.unlink()

    def _number(self) -> int:
        """A number that no part has had, nor any file."""
        names = (path.name.partition(".")[0] for path in self.folder.iterdir())
        return 1 + max(self.spool.last(), *(int(name) for name in names if name.isdecimal()), 0)

    def _fits(self, draft: _Draft, model: str, line: bytes) -> bool:
        return (
            draft.model == model
            and len(draft.keys) < self._settings.requests_per_file
            and draft.size + len(line) <= self._settings.megabytes_per_file * 1e6
        )

    def _add(self, draft: _Draft, told: bool) -> Part:
        draft.finish()
        part = self.spool.add(draft.number, draft.model, draft.dialect, draft.keys, told=told)
        self._counted.add(part.id)
        return part

    def _dialect(self, model: str) -> Dialect:
        return self._dialects.setdefault(model, Dialect())

    def file(self, part: Part, kind: str = "jsonl") -> Path:
        """A part's file: its requests, or of another kind."""
        return self.folder / f"{part.id:04d}.{kind}"

    def intake(self, part: Part, desk: Desk, *, whole: bool = True) -> Intake:
        """What takes in the replies to a part."""
        return Intake(self.spool, part, desk, self._dialect(part.model), self.say, self._mask, whole=whole)

    def forget(self, part: Part) -> None:
        """A part is done: what still has no reply waits again, if anybody wants it."""
        self.spool.finish(part)
        self.file(part).unlink(missing_ok=True)

    def close(self) -> None:
        """Leave nothing behind but what must be known again."""
        empty = self.spool.is_empty()
        self.spool.close()
        if empty:
            self.spool.path.unlink(missing_ok=True)
            with suppress(OSError):  # somebody's files are in it, or there is none
                self.folder.rmdir()


class _Draft:
    """A part's file while it is written."""

    def __init__(self, number: int, folder: Path, model: str, dialect: str) -> None:
        self.number, self.model, self.dialect = number, model, dialect
        self.keys: list[str] = []
        self.size = 0
        self._path = folder / f"{number:04d}.jsonl"
        self._file = self._path.with_name(f"{self._path.name}.new").open("wb")

    def add(self, key: str, line: bytes) -> None:
        self._file.write(line)
        self.keys.append(key)
        self.size += len(line)

    def close(self) -> None:
        self._file.close()

    def finish(self) -> None:
        """Give the file its name, now that it is whole."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self.close()
        Path(self._file.name).replace(self._path)
