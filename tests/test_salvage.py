"""Whatever happens to a ledger's file, every reply that is still whole in it goes on counting, and nothing else."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from relabel import salvage as module
from relabel import segment
from relabel.errors import Damaged, LedgerError
from relabel.ledger import Ledger
from relabel.records import Reply
from relabel.salvage import salvage
from relabel.schema import SCHEMA, settle
from tests.test_ledger import FILE, FULL, edit, entry, files, key, texts, write

KEPT = f"{FILE}.damaged"
PAGE = 4096
COUNT = 300


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ledger whose replies have a dictionary, two contexts, and a few bodies that go on over further pages."""
    monkeypatch.setattr(segment, "DICTIONARY_AFTER", 50)
    folder = tmp_path / "run"
    write(folder, texts(range(60)))
    rest = [entry(n, Reply("ok", random.Random(n).randbytes(100 if n % 20 else 9000).hex())) for n in range(60, 200)]
    write(folder, rest + [entry(n, tier="strong") for n in range(200, COUNT)])
    return folder


def held(folder: Path) -> dict[str, Reply | None]:
    """The replies that are there, of a ledger that must be sound."""
    with Ledger(folder, write=True) as ledger:
        assert list(ledger.damaged()) == []
        return {key(n): ledger.get(key(n)) for n in range(COUNT)}


def overwrite(path: Path, at: int, content: bytes) -> None:
    with path.open("rb+") as file:
        file.seek(at)
        file.write(content)


def raw(path: Path) -> dict[bytes, tuple[object, ...]]:
    db = sqlite3.connect(path)
    query = "SELECT key, content, at, seconds, body, digest FROM reply JOIN context ON context.id = context"
    rows = {row[0]: row for row in db.execute(query)}
    db.close()
    return rows


def root_of(name: str) -> Callable[[Path], None]:
    def destroy(path: Path) -> None:
        db = sqlite3.connect(path)
        (page,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (name,)).fetchone()
        db.close()
        overwrite(path, (page - 1) * PAGE, os.urandom(PAGE))

    return destroy


class TestSalvage:
    def test_leaves_a_sound_ledger_as_it_is(self, ledger: Path) -> None:
        before = (ledger / FILE).read_bytes()
        assert salvage(ledger) == []
        assert (ledger / FILE).read_bytes() == before
        assert files(ledger) == [FILE]

    def test_says_what_it_did_and_keeps_the_damaged_file(self, ledger: Path) -> None:
        edit(ledger / FILE, "UPDATE reply SET body = x'00' WHERE seq = 3")
        damaged = (ledger / FILE).read_bytes()
        (said,) = salvage(ledger)
        assert said == (
            f"{ledger / FILE} is damaged (the reply with key {key(2)} is not what was stored): 299 of 300 replies "
            f"salvaged, the others will be asked again; the damaged file is kept as {KEPT}"
        )
        assert files(ledger) == [FILE, KEPT]
        assert (ledger / KEPT).read_bytes() == damaged
        assert [one for one, reply in held(ledger).items() if reply is None] == [key(2)]
        assert salvage(ledger) == []
        edit(ledger / FILE, "UPDATE head SET replies = 4")
        assert "299 replies salvaged, what else it held will be asked again" in salvage(ledger)[0]
        assert files(ledger) == [FILE, KEPT, f"{KEPT}-2"]

    def test_takes_over_key_context_times_and_bytes_as_they_lie(self, ledger: Path) -> None:
        before, told = raw(ledger / FILE), held(ledger)
        with Ledger(ledger) as opened:
            head, spent = opened.head(), opened.spent()
        edit(ledger / FILE, "UPDATE spent SET prompt = prompt + 1")
        assert "300 of 300 replies salvaged; the" in salvage(ledger)[0]
        assert raw(ledger / FILE) == before
        assert held(ledger) == told
        with Ledger(ledger) as opened:
            assert (opened.head(), opened.spent()) == (head, spent)

    def test_mends_only_what_is_damaged(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(segment, "SEGMENT_BYTES", 1)
        for number in range(3):
            write(tmp_path, [entry(2 * number), entry(2 * number + 1)])
        second = "ledger-0003.sqlite"
        edit(tmp_path / second, "UPDATE reply SET at = 0 WHERE seq = 1")
        (said,) = salvage(tmp_path)
        assert "1 of 2 replies salvaged" in said
        assert files(tmp_path) == [FILE, "ledger-0002.sqlite", second, f"{second}.damaged", "ledger-0004.sqlite"]
        with Ledger(tmp_path) as ledger:
            assert [ledger.get(key(n)) for n in range(6)] == [FULL, FULL, None, FULL, FULL, FULL]

    def test_is_refused_while_another_writes(self, ledger: Path) -> None:
        with Ledger(ledger, write=True), pytest.raises(LedgerError, match=f"process {os.getpid()}"):
            salvage(ledger)

    def test_of_a_newer_version_is_refused(self, ledger: Path) -> None:
        edit(ledger / FILE, f"PRAGMA user_version = {SCHEMA + 1}")
        with pytest.raises(LedgerError, match="Upgrade"):
            salvage(ledger)
        assert files(ledger) == [FILE]

    def test_waits_for_those_who_read_what_the_log_still_holds(self, ledger: Path) -> None:
        with Ledger(ledger, write=True) as opened:
            opened.store([entry(-1)])
            shutil.copytree(ledger, copy := ledger.with_name("copy"))
        leaves = [at for at in range(0, (copy / FILE).stat().st_size, PAGE) if (copy / FILE).read_bytes()[at] == 13]
        overwrite(copy / FILE, leaves[len(leaves) // 2], bytes(PAGE))
        reader = sqlite3.connect(f"{(copy / FILE).as_uri()}?mode=ro", uri=True)
        assert reader.execute("SELECT count(*) FROM head").fetchone() == (1,)
        with pytest.raises(LedgerError, match="locked"):
            salvage(copy)
        reader.close()
        salvage(copy)
        assert len(list(filter(None, held(copy).values()))) > 250
        with Ledger(copy) as again:
            assert again.get(key(-1)) == FULL


class TestDamage:
    @pytest.mark.parametrize(
        ("damage", "expected"),
        [
            (lambda path: overwrite(path, 0, bytes(PAGE)), COUNT),
            (lambda path: overwrite(path, 0, os.urandom(100)), COUNT),
            (root_of("reply"), COUNT),
            (root_of("reply_key"), COUNT),
            (root_of("context"), COUNT),
            (root_of("sqlite_autoindex_context_1"), COUNT),
            (root_of("dictionary"), COUNT),
            (root_of("dictionary_copy"), COUNT),
            (root_of("head"), COUNT),
            (root_of("spent"), COUNT),
            (lambda path: edit(path, "PRAGMA user_version = 0"), COUNT),
            (lambda path: edit(path, "DROP TABLE head"), COUNT),
            (lambda path: path.write_bytes(b""), 0),
            (lambda path: path.write_bytes(os.urandom(100_000)), 0),
            (lambda path: path.write_bytes(b"SQLite format 3\0" + b"\7" * 5000), 0),
            (lambda path: path.write_bytes(b"\r\0\0\xff\xff" + b"\xff" * 9000), 0),
        ],
    )
    def test_that_hits_no_reply_costs_none(self, damage: Callable[[Path], None], expected: int, ledger: Path) -> None:
        damage(ledger / FILE)
        (said,) = salvage(ledger)
        found = held(ledger)
        assert sum(reply is not None for reply in found.values()) == expected, said
        assert f"{expected} " in said
        assert files(ledger) == [FILE, KEPT]

    @pytest.mark.parametrize("garbage", [bytes, os.urandom])
    def test_of_any_page_costs_at_most_the_replies_on_it(self, garbage: Callable[[int], bytes], ledger: Path) -> None:
        whole, told = (ledger / FILE).read_bytes(), held(ledger)
        for number in range(0, len(whole) // PAGE, 1 if garbage is bytes else 7):
            (ledger / FILE).write_bytes(whole)
            overwrite(ledger / FILE, number * PAGE, garbage(PAGE))
            said = salvage(ledger)
            found = held(ledger)
            lost = [one for one, reply in found.items() if reply is None]
            assert len(lost) <= 40, (number, said)
            assert all(reply == told[one] for one, reply in found.items() if reply is not None)

    @pytest.mark.parametrize("share", [0.2, 0.5, 0.77, 0.999])
    def test_by_truncation_costs_what_is_cut_off(self, share: float, ledger: Path) -> None:
        told, size = held(ledger), (ledger / FILE).stat().st_size
        os.truncate(ledger / FILE, int(share * size))
        (said,) = salvage(ledger)
        found = held(ledger)
        there = sum(reply is not None for reply in found.values())
        assert there >= (share - 0.2) * COUNT, said
        assert all(reply == told[one] for one, reply in found.items() if reply is not None)

    def test_by_flipped_bits_lets_nothing_false_through(self, ledger: Path) -> None:
        whole, told, chance = (ledger / FILE).read_bytes(), held(ledger), random.Random(4)
        for _ in range(40):
            flipped = bytearray(whole)
            for _ in range(chance.choice([1, 1, 30])):
                flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
            (ledger / FILE).write_bytes(flipped)
            salvage(ledger)
            found = held(ledger)
            assert sum(reply is None for reply in found.values()) <= 60
            assert all(reply == told[one] for one, reply in found.items() if reply is not None)

    @pytest.mark.parametrize("garbage", [bytes, os.urandom])
    def test_of_the_first_page_costs_nothing_of_the_log_either(
        self, garbage: Callable[[int], bytes], ledger: Path
    ) -> None:
        with Ledger(ledger, write=True) as opened:
            opened.store([entry(-1)])
            shutil.copytree(ledger, copy := ledger.with_name("copy"))
        overwrite(copy / FILE, 0, garbage(PAGE))
        assert "301 of 301 replies salvaged;" in salvage(copy)[0]
        assert files(copy) == [FILE, KEPT]
        with Ledger(copy) as again:
            assert again.get(key(-1)) == FULL
            assert list(again.damaged()) == []

    @pytest.mark.parametrize("for_writing", [False, True])
    def test_of_the_whole_file_leaves_what_the_log_holds(self, for_writing: bool, tmp_path: Path) -> None:
        copy = emptied(tmp_path)
        with pytest.raises(Damaged, match="it is empty"):
            Ledger(copy, write=for_writing)
        assert "5 of 5 replies salvaged;" in salvage(copy)[0]
        assert files(copy) == [FILE, KEPT, f"{KEPT}-wal"]
        assert list(filter(None, held(copy).values())) == [FULL] * 5


def emptied(folder: Path) -> Path:
    """A ledger of five replies, whose file has become empty and whose log has not."""
    with Ledger(folder, write=True) as opened:
        opened.store(list(map(entry, range(5))))
        shutil.copytree(folder, copy := folder / "copy", ignore=lambda *_: ["copy", "run"])
    os.truncate(copy / FILE, 0)
    return copy


class Killed(BaseException):
    """What a kill is to the code."""


class TestKill:
    def test_at_any_step_loses_nothing_and_is_made_good_by_the_next(
        self, ledger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root_of("reply_key")(ledger / FILE)
        steps = 0
        for start, replies in ((ledger, COUNT), (emptied(tmp_path), 5)):
            for step in count(1):
                folder = tmp_path / f"{start.name}-{step}"
                shutil.copytree(start, folder)
                if not self.killed(folder, step, monkeypatch):
                    break
                steps += 1
                salvage(folder)
                assert len(list(filter(None, held(folder).values()))) == replies, (start.name, step)
                assert [name for name in files(folder) if not name.endswith("-wal")] == [FILE, KEPT]
        assert steps > 10

    @staticmethod
    def killed(folder: Path, step: int, monkeypatch: pytest.MonkeyPatch) -> bool:
        """Whether salvage was stopped before so many changes of a name or the disk, with nothing cleaned up after."""
        left = step

        def counting(real: Callable[..., object]) -> Callable[..., object]:
            def call(*args: object, **more: object) -> object:
                nonlocal left
                left -= 1
                if left <= 0:
                    raise Killed
                return real(*args, **more)

            return call

        with monkeypatch.context() as patch:
            for owner, name in [(Path, "replace"), (Path, "unlink"), (Path, "hardlink_to"), (os, "fsync")]:
                patch.setattr(owner, name, counting(getattr(owner, name)))
            patch.setattr(module, "settle", counting(settle))
            try:
                salvage(folder)
            except Killed:
                return True
        return False

    def test_for_real(self, ledger: Path, tmp_path: Path) -> None:
        code = (
            "import sys; from pathlib import Path; from relabel.salvage import salvage\n"
            "print(flush=True); salvage(Path(sys.argv[1]))"
        )
        root_of("reply")(ledger / FILE)
        for attempt in range(8):
            command = [sys.executable, "-c", code, str(ledger)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]) as process:
                assert process.stdout is not None
                process.stdout.readline()
                time.sleep(attempt * 0.004)
                process.send_signal(signal.SIGKILL)
        salvage(ledger)
        assert None not in held(ledger).values()
        assert files(ledger) == [FILE, KEPT]


class TestDisk:
    def test_without_hard_links_gets_a_copy(self, ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr(Path, "hardlink_to", refuse)
        root_of("reply")(ledger / FILE)
        damaged = (ledger / FILE).read_bytes()
        salvage(ledger)
        assert (ledger / KEPT).read_bytes() == damaged
        assert None not in held(ledger).values()

    def test_that_fails_changes_nothing(self, ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        root_of("reply")(ledger / FILE)
        damaged = (ledger / FILE).read_bytes()
        monkeypatch.setattr(module, "put_in_place", fail)
        with pytest.raises(LedgerError, match=r"cannot be salvaged: .*No space") as raised:
            salvage(ledger)
        assert not isinstance(raised.value, Damaged)
        assert (ledger / FILE).read_bytes() == damaged
        assert f"{FILE}.new" not in files(ledger)
        monkeypatch.undo()
        salvage(ledger)
        assert None not in held(ledger).values()
        assert files(ledger) == [FILE, KEPT]
