"""What was said to be safe is safe: through kills, power cuts, full disks, and folders that cannot be used."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from textwrap import dedent
from typing import IO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relabel.errors import LedgerError, RunStopped
from relabel.ledger import Ledger, segments
from relabel.salvage import salvage
from relabel.text import printable
from tests.test_ledger import FILE, FULL, entry, files, key, texts, write

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


class TestPowerCut:
    @staticmethod
    def live(folder: Path) -> tuple[Path, list[int]]:
        """A copy of a ledger whose writer is at work, and how many replies it held after each commit."""
        sizes = [3, 1, 10, 2, 40, 1, 7]
        with Ledger(folder, write=True) as ledger:
            for start, size in zip(accumulate(sizes, initial=0), sizes, strict=False):
                ledger.store(texts(range(start, start + size)))
            shutil.copytree(folder, copy := folder / "copy", ignore=lambda *_: ["copy", f"{FILE}-shm"])
        return copy, list(accumulate(sizes, initial=0))

    @settings(deadline=None, max_examples=60)
    @given(st.data())
    def test_leaves_a_prefix_of_the_commits_wherever_it_tears_the_log(self, data: st.DataObject) -> None:
        with tempfile.TemporaryDirectory() as folder:
            copy, commits = self.live(Path(folder))
            log = copy / f"{FILE}-wal"
            content = log.read_bytes()
            at = data.draw(st.integers(0, len(content)))
            tail = data.draw(st.sampled_from([b"", bytes(len(content) - at), random.Random(at).randbytes(3000)]))
            log.write_bytes(content[:at] + tail)
            for for_writing in (False, True):
                with Ledger(copy, write=for_writing) as ledger:
                    assert list(ledger.damaged()) == []
                    found = [ledger.get(key(number)) for number in range(commits[-1])]
                    there = commits[max(i for i, n in enumerate(commits) if ledger.head().startswith(f"{n}:"))]
                    assert found == [one.reply for one in texts(range(there))] + [None] * (commits[-1] - there)
                    assert there == commits[-1] or at < len(content)

    def test_loses_nothing_that_the_log_held_whole(self, tmp_path: Path) -> None:
        copy, commits = self.live(tmp_path)
        with Ledger(copy) as ledger:
            assert ledger.head().startswith(f"{commits[-1]}:")


class TestHalfAStep:
    def test_of_folding_the_log_is_undone_by_whoever_comes_next_be_it_a_reader(self, tmp_path: Path) -> None:
        """A process killed there leaves SQLite's rollback journal behind, which a reader may not play back."""
        before = tmp_path / "before"
        write(before, texts(range(50)))
        db = sqlite3.connect(before / FILE, isolation_level=None)
        db.executescript("PRAGMA cache_size = 1; BEGIN; UPDATE reply SET body = zeroblob(9000)")
        killed = tmp_path / "killed"
        shutil.copytree(before, killed)
        db.close()
        assert (killed / f"{FILE}-journal").stat().st_size > 0
        with Ledger(killed) as ledger:
            assert all(ledger.get(key(number)) == texts([number])[0].reply for number in range(50))
            assert list(ledger.damaged()) == []


class TestLock:
    @pytest.mark.parametrize(
        "content", [b"\xff\xfe\0\0", b"\x1b[2Jprocess 1 \n\n" * 99, "ü".encode()[:1], b"", b"\0" * 9]
    )
    def test_with_garbage_in_it_is_held_all_the_same(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "ledger.lock").write_bytes(content)
        with Ledger(tmp_path, write=True):
            (tmp_path / "ledger.lock").write_bytes(content)
            with pytest.raises(LedgerError, match="is writing this run") as raised:
                Ledger(tmp_path, write=True)
            assert printable(said := str(raised.value)) == said
            assert len(said) < 1000 + len(str(tmp_path))
        Ledger(tmp_path, write=True).close()

    def test_that_is_missing_is_made_again(self, tmp_path: Path) -> None:
        write(tmp_path, [entry(1)])
        (tmp_path / "ledger.lock").unlink()
        write(tmp_path, [entry(2)])
        assert (tmp_path / "ledger.lock").exists()


def limited(code: str, folder: Path) -> str:
    """What a process says that runs so with limits of its own."""
    head = (
        "import os, resource, signal, sys; from pathlib import Path\n"
        "from relabel.errors import Damaged, LedgerError; from relabel.ledger import Ledger\n"
        "from relabel.records import Reply; from tests.test_ledger import entry, key\n"
        "folder = Path(sys.argv[1])\n"
    )
    command = [sys.executable, "-c", head + dedent(code), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    return done.stdout


FILL = """
ledger = Ledger(folder, write=True)
ledger.store([entry(1)])
try:
    with ledger:
        for number in range(2, 400):
            ledger.store([entry(number, Reply("ok", os.urandom(40_000).hex()))])
except LedgerError as fault:
    print(number, type(fault).__name__, fault)
"""


class TestLimits:
    @staticmethod
    def check(folder: Path, said: str) -> None:
        number, kind, message = said.split(" ", 2)
        assert (kind, "is safe" in message) == ("LedgerError", True)
        with Ledger(folder) as ledger:
            assert list(ledger.damaged()) == []
            assert ledger.head().startswith(f"{int(number) - 1}:")

    def test_of_a_file_s_size_are_said(self, tmp_path: Path) -> None:
        limit = (
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (2**20,) * 2)\n"
        )
        self.check(tmp_path, limited(limit + FILL, tmp_path))
        write(tmp_path, [entry(-1)])

    def test_of_a_disk_are_said(self, disk: Path) -> None:
        (disk / "filler").write_bytes(bytes(300_000))
        self.check(disk, limited(FILL, disk))
        (disk / "filler").unlink()
        write(disk, [entry(-1)])

    def test_of_a_disk_that_may_only_be_read(self, disk: Path) -> None:
        write(disk, texts(range(9)))
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with Ledger(disk) as ledger:
            assert ledger.get(key(1)) == texts([1])[0].reply
            assert list(ledger.damaged()) == []
        for refused in (lambda: Ledger(disk, write=True), lambda: salvage(disk)):
            with pytest.raises(LedgerError, match="Check that the run folder can be written"):
                refused()

    def test_of_open_files_are_said(self, tmp_path: Path) -> None:
        write(tmp_path, texts(range(9)))
        said = limited(
            """
            for limit in range(3, 40):
                for write in (False, True):
                    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, 4096))
                    try:
                        with Ledger(folder, write=write) as ledger:
                            ledger.get(key(1))
                            if write:
                                ledger.store([entry(limit)])
                        found = "ok"
                    except LedgerError as fault:
                        found = type(fault).__name__
                    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
                    print(found)
            """,
            tmp_path,
        ).split()
        assert set(said) == {"LedgerError", "ok"}
        with Ledger(tmp_path, write=True) as ledger:
            assert list(ledger.damaged()) == []


class TestClose:
    def test_after_a_failed_write_gives_the_lock_back_and_says_the_first_error(self, tmp_path: Path) -> None:
        def fail(first: str) -> None:
            with Ledger(tmp_path, write=True) as ledger:
                assert ledger._writer is not None
                ledger._writer._db.execute("PRAGMA max_page_count = 1")
                asyncio.run(begin(ledger))
                if first:
                    raise RunStopped(first)

        async def begin(ledger: Ledger) -> None:
            asyncio.create_task(ledger.append(entry(1, replace(FULL, text=os.urandom(40_000).hex()))))  # noqa: RUF006
            await asyncio.sleep(0)

        with pytest.raises(RunStopped, match="the server is gone"):
            fail("the server is gone")
        with pytest.raises(LedgerError, match=r"cannot be written.*full"):
            fail("")
        write(tmp_path, [entry(2)])
