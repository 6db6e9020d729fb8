"""A ledger that an older relabel wrote is read as it is, and brought up to date when it is written to."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from relabel import segment
from relabel.errors import Damaged
from relabel.ledger import Ledger, Spent, segments
from relabel.records import Reply, Usage
from relabel.schema import SCHEMA
from tests.test_ledger import FILE, call, entry, key, texts, write

SCHEMA_1 = """
CREATE TABLE reply (
    seq INTEGER PRIMARY KEY,
    key BLOB NOT NULL,           -- 16 bytes: the request's key
    context INTEGER NOT NULL,    -- who asked whom: context.id
    status TEXT NOT NULL,        -- ok | refused
    finish_reason TEXT,
    prompt INTEGER NOT NULL,     -- tokens, as the server counted them
    cached INTEGER NOT NULL,
    completion INTEGER NOT NULL,
    at REAL NOT NULL,            -- unix time
    seconds REAL NOT NULL,       -- from sending to the last byte
    dictionary INTEGER NOT NULL, -- dictionary.id, 0 for none
    body BLOB NOT NULL,          -- zstd of JSON: text, refusal, reasoning, error, logprobs
    digest BLOB NOT NULL         -- 8 bytes over the key, the context's content and the reply, 4 over at and body
);
CREATE UNIQUE INDEX reply_key ON reply(key);
CREATE TABLE context (id INTEGER PRIMARY KEY, content TEXT NOT NULL UNIQUE);
CREATE TABLE dictionary (id INTEGER PRIMARY KEY, content BLOB NOT NULL);
CREATE TABLE head (id INTEGER PRIMARY KEY CHECK (id = 1), replies INTEGER NOT NULL, digest BLOB NOT NULL);
PRAGMA user_version = 1;
"""


def age(path: Path) -> None:
    """Make a file what the first relabel would have written."""
    new = path.with_name("new")
    path.rename(new)
    db = sqlite3.connect(path, isolation_level=None)
    db.executescript(SCHEMA_1)
    db.execute("ATTACH ? AS new", (str(new),))
    for table in ("reply", "context", "dictionary", "head"):
        db.execute(f"INSERT INTO {table} SELECT * FROM new.{table}")
    db.close()
    new.unlink()


def version(path: Path) -> int:
    db = sqlite3.connect(path)
    (found,) = db.execute("PRAGMA user_version").fetchone()
    db.close()
    return int(found)


class TestOlderVersions:
    @pytest.fixture
    def old(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Three files of version 1, the middle one with a dictionary."""
        monkeypatch.setattr(segment, "SEGMENT_BYTES", 1)
        monkeypatch.setattr(segment, "DICTIONARY_AFTER", 50)
        folder = tmp_path / "old"
        for entries in ([entry(-1)], texts(range(60)), [entry(-2), entry(-3, Reply("refused"), tier="strong")]):
            write(folder, entries)
        (folder / FILE).unlink()  # the empty one that was full from its beginning
        for path in segments(folder):
            age(path)
        return folder

    @staticmethod
    def told(folder: Path, *, write: bool) -> list[object]:
        numbers = range(-3, 60)
        with Ledger(folder, write=write) as ledger:
            replies = [ledger.get(key(n)) for n in numbers] + [ledger.get(call(-3, "strong").request.key)]
            return [replies, ledger.head(), ledger.spent(), ledger.contexts(), list(ledger.damaged())]

    def test_are_read_as_they_are(self, old: Path) -> None:
        before = {path: path.read_bytes() for path in segments(old)}
        replies, _, spent, _, damaged = self.told(old, write=False)
        assert isinstance(replies, list)
        assert sum(reply is not None for reply in replies) == 64
        assert spent == [
            Spent("cheap", "small", 62, 0, Usage(240, 128, 18)),
            Spent("strong", "small", 1, 1, Usage()),
        ]
        assert damaged == []
        assert {path: path.read_bytes() for path in segments(old)} == before

    def test_are_brought_up_to_date_for_a_writer_and_hold_the_same(self, old: Path) -> None:
        before = self.told(old, write=False)
        assert [version(path) for path in segments(old)] == [1, 1, 1]
        assert self.told(old, write=True) == before
        assert [version(path) for path in segments(old)] == [SCHEMA] * 3
        assert self.told(old, write=False) == before
        write(old, [entry(-4)])
        with Ledger(old) as ledger:
            assert sum(one.replies for one in ledger.spent()) == 64
            assert list(ledger.damaged()) == []

    def test_brought_up_to_date_are_laid_out_as_new_ones(self, old: Path, tmp_path: Path) -> None:
        write(tmp_path, [entry(1)])
        write(old, [])
        layouts = []
        for path in (tmp_path / FILE, *segments(old)):
            db = sqlite3.connect(path)
            layouts.append(db.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY name").fetchall())
            db.close()
        assert all(layout == layouts[0] for layout in layouts)

    def test_stay_as_they_were_when_killed_on_the_way(self, old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        before = self.told(old, write=False)
        code = (
            "import os, sys; from pathlib import Path; from relabel import schema; from relabel.ledger import Ledger\n"
            "schema._STEPS = (schema._STEPS[0], schema._STEPS[1] + 'UPDATE head SET replies = die();')\n"
            "import sqlite3; connect = sqlite3.connect\n"
            "def deadly(*args, **more):\n"
            "    db = connect(*args, **more)\n"
            "    db.create_function('die', 0, lambda: os.kill(os.getpid(), 9))\n"
            "    return db\n"
            "sqlite3.connect = deadly; Ledger(Path(sys.argv[1]), write=True)\n"
        )
        done = subprocess.run([sys.executable, "-c", code, str(old)], cwd=Path(__file__).parents[1])
        assert done.returncode == -signal.SIGKILL
        assert [version(path) for path in segments(old)] == [1, 1, 1]
        assert self.told(old, write=False) == before
        assert self.told(old, write=True) == before
        assert [version(path) for path in segments(old)] == [SCHEMA] * 3

    def test_that_are_damaged_are_said_to_be(self, old: Path) -> None:
        path = segments(old)[1]
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(Damaged, match=path.name):
            Ledger(old, write=True)
