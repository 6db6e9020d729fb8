"""What was said to be safe is safe: through kills, power cuts, full disks, and folders that cannot be used."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from relabel.errors import LedgerError
from relabel.ledger import Ledger, segments
from tests.test_ledger import FILE, FULL, entry, files

WRITER = """
import asyncio, sys
from pathlib import Path
from relabel.ledger import Ledger
from tests.test_ledger import entry, key

async def main():
    ledger = Ledger(Path(sys.argv[1]), write=True)
    async def append(number):
        await ledger.append(entry(number))
        sys.stdout.write(key(number) + "\\n")
        sys.stdout.flush()
    for start in range(0, 10**6, 10):
        await asyncio.gather(*map(append, range(start, start + 10)))

asyncio.run(main())
"""


class TestKill:
    @staticmethod
    def kill(folder: Path, after: int) -> list[str]:
        """The keys of the replies whose append had returned in a process that is killed after so many."""
        command = [sys.executable, "-c", WRITER, str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as process:
            out: IO[str] = process.stdout  # type: ignore[assignment]
            said = [out.readline() for _ in range(after)]
            with pytest.raises(LedgerError, match=f"process {process.pid} on"):
                Ledger(folder, write=True)
            process.send_signal(signal.SIGKILL)
            said += out.readlines()
        return [line.strip() for line in said if line.endswith("\n")]

    @pytest.mark.parametrize("after", [1, 137])
    def test_loses_no_reply_that_was_said_to_be_safe(self, after: int, tmp_path: Path) -> None:
        safe = self.kill(tmp_path, after)
        assert len(safe) >= after
        with Ledger(tmp_path) as ledger:
            assert all(ledger.get(one) == FULL for one in safe)
        with Ledger(tmp_path, write=True) as ledger:
            assert all(ledger.get(one) == FULL for one in safe)
            assert list(ledger.damaged()) == []
            ledger.store([entry(-1)])
        assert segments(tmp_path) == [tmp_path / FILE]
        assert files(tmp_path) == [FILE]
