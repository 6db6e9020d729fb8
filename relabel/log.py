"""log.jsonl: what happened when, one JSON object a line."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson


class Log:
    """Appends events to a run's log."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / "log.jsonl").open("ab", buffering=0)
        self._run = folder.name

    def write(self, event: str, **fields: Any) -> None:
        """One line: when, which run, what, and whatever else belongs to it (of a request: its tier and key).

        A disk that takes no more is for the ledger to complain of: the log does without the line.
        """
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = {"at": at, "run": self._run, "event": event, **fields}
        with suppress(OSError):
            self._file.write(orjson.dumps(line, default=str, option=orjson.OPT_APPEND_NEWLINE))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
