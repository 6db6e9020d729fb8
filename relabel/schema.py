"""The tables of a ledger's file, how it comes to be and is brought up to date, and what SQLite's errors mean."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import zstandard

_FIRST = """
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
INSERT INTO head VALUES (1, 0, zeroblob(8));
"""
SUMS = (
    "SELECT context, count(*), sum(status = 'refused'), sum(prompt), sum(cached), sum(completion) "
    "FROM reply GROUP BY context ORDER BY context"
)
_SECOND = f"""
CREATE TABLE spent (             -- the sums over reply: reading all of that takes long
    context INTEGER PRIMARY KEY,
    replies INTEGER NOT NULL,
    refused INTEGER NOT NULL,
    prompt INTEGER NOT NULL,
    cached INTEGER NOT NULL,
    completion INTEGER NOT NULL
);
INSERT INTO spent {SUMS};
CREATE TRIGGER reply_spent AFTER INSERT ON reply BEGIN
    INSERT INTO spent VALUES (new.context, 1, new.status = 'refused', new.prompt, new.cached, new.completion)
    ON CONFLICT (context) DO UPDATE SET replies = replies + 1, refused = refused + excluded.refused,
    prompt = prompt + excluded.prompt, cached = cached + excluded.cached, completion = completion + excluded.completion;
END;
CREATE INDEX dictionary_copy ON dictionary(content);  -- a second copy: without it, most replies cannot be read
"""
_STEPS = (_FIRST, _SECOND)
"""What makes a file of each version from one of the version before."""
SCHEMA = len(_STEPS)

UNREADABLE = (sqlite3.DatabaseError, zstandard.ZstdError, ValueError, LookupError, TypeError, AttributeError)
"""What reading a damaged file can raise."""
CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_OUTSIDE = {3, 5, 6, 7, 8, 9, 10, 13, 14, 15, 23}
"""SQLite's codes for what ails the disk, the process or its rights, not the file (https://www.sqlite.org/rescode.html)."""


def create(path: Path) -> None:
    """Begin a file. It gets its name when it is whole, so that one without tables is always a damaged one."""
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    with closing(sqlite3.connect(draft, isolation_level=None)) as db:
        bring_up(db, 0)
    put_in_place(draft, path)


def bring_up(db: sqlite3.Connection, version: int) -> None:
    """Make what a version left into what this one expects, in one transaction."""
    steps = "".join(_STEPS[version:])
    db.executescript(f"BEGIN IMMEDIATE; {steps} PRAGMA user_version = {SCHEMA}; COMMIT;")


def put_in_place(draft: Path, path: Path) -> None:
    """Give a finished file its name, in one step that outlasts a power cut."""
    draft.replace(path)
    sync(path.parent)


def sync(folder: Path) -> None:
    """Make the names in a folder outlast a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def settle(path: Path) -> None:
    """Fold SQLite's log into the file, so that a ledger at rest is one file and reading it leaves no trace.

    Raises sqlite3.Error, also while somebody is reading: then the log stays, nothing is lost.
    """
    with closing(sqlite3.connect(path, timeout=1)) as db:
        db.execute("PRAGMA journal_mode=DELETE")


def roll_back(path: Path) -> None:
    """Finish what a process left half done that was killed while it folded the log: a reader cannot."""
    with closing(sqlite3.connect(path, timeout=1)) as db:
        db.execute("SELECT 1 FROM head")


def is_damage(fault: Exception) -> bool:
    """Whether what was raised in reading a file is the file's own fault."""
    return getattr(fault, "sqlite_errorcode", 0) & 0xFF not in _OUTSIDE and not isinstance(fault, OSError)
