"""Parts that somebody else answers, such as `vllm run-batch`: files NNNN.jsonl, and NNNN.out.jsonl beside them."""

from __future__ import annotations

from pathlib import Path

from relabel.clients import Desk
from relabel.clients.batches.lines import read_lines
from relabel.clients.batches.parts import Parts
from relabel.clients.batches.spool import Part
from relabel.errors import RunStopped
from relabel.text import pasteable


class Written:
    """Takes in the files that are answered, and says which are not."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def take_in(self, desk: Desk) -> int:
        """Take in the files that are answered; how many replies they held. Raises RunStopped where one is not whole."""
        replies = 0
        broken: list[str] = []
        for part in self._parts.spool.parts():
            out = self._parts.file(part, "out.jsonl")
            if out.exists():
                replies += await self._take_in(part, out, desk, broken)
            elif not self._parts.file(part).exists() or not self._parts.spool.wanted(part):
                await self._parts.intake(part, desk).rest("its file was removed", counts=False)
                self._parts.forget(part)
        if broken:
            raise RunStopped(" ".join(broken))
        return replies

    def ask(self) -> None:
        """Ask for what is still to be answered. Raises RunStopped if there is anything."""
        if missing := self._parts.spool.parts():
            raise RunStopped(self._wanted(missing))

    async def _take_in(self, part: Part, out: Path, desk: Desk, broken: list[str]) -> int:
        """Take in an output file, whole if it is whole; what else it is, in words."""
        unanswered = part.requests - self._answered(part, out)
        intake = self._parts.intake(part, desk, whole=not unanswered)
        await intake.read(out)
        if unanswered:
            name = self._parts.file(part).name
            found = f"{out}: {intake}; {unanswered:,} have no line in it. If it is still being written, wait."
            advice = f"have {name} answered again, or delete both: what is missing is then asked in another file."
            broken.append(f"{found} If not, delete it and {advice}")
            return intake.replies
        self._parts.forget(part)
        self._parts.say(f"{out}: {intake}")
        if intake.fatal and not intake.replies:
            raise RunStopped(f"{out} has no reply: {intake.fatal}")
        return intake.replies

    def _answered(self, part: Part, out: Path) -> int:
        """How many requests of a part have a line in its output."""
        keys = {line.key for _, line in read_lines(out) if line is not None}
        return sum(key in keys for key in self._parts.spool.keys(part))

    def _wanted(self, missing: list[Part]) -> str:
        first, requests = missing[0], sum(part.requests for part in missing)
        out = self._parts.file(first, "out.jsonl")
        command = pasteable("vllm", "run-batch", "-i", self._parts.file(first), "-o", out, "--model", first.model)
        more = (
            f", and the others up to {self._parts.file(missing[-1]).name} in the same way" if len(missing) > 1 else ""
        )
        return (
            f"{requests:,} requests are written to {self._parts.folder}; have them answered, as by `{command}`{more}, "
            "with the options that a server of that model would have (--served-model-name, --max-model-len, "
            "--structured-outputs-config)."
        )
