"""The ledger keeps every reply it has taken, whatever happens to the process, and knows when it is damaged."""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relabel import segment
from relabel.errors import Damaged, LedgerError
from relabel.ledger import Entry, Ledger, Spent
from relabel.records import Call, Reply, Request, Token, Usage
from relabel.schema import SCHEMA

FULL = Reply(
    *("ok", "text ü", "length", "no", "hm", None, "m-2024", "fp_1", "-seed", Usage(120, 64, 9), 0.12345678901234567),
    (Token("te", -0.5, (("te", -0.5), ("to", -1.25))), Token("xt ü", 0.0)),
)
FILE = "ledger-0001.sqlite"


def call(number: int, tier: str = "cheap", model: str = "small") -> Call:
    return Call(Request(model, ({"role": "user", "content": f"question {number}"},), {"seed": 1}), tier, "local", "p")


def key(number: int) -> str:
    return call(number).request.key


def entry(number: int, reply: Reply = FULL, **asked: str) -> Entry:
    return Entry(call(number, **asked), reply, "http://host/v1")


def texts(numbers: Iterable[int], prefix: str = "reply") -> list[Entry]:
    return [entry(number, Reply("ok", f"{prefix} {number} " + "words and more words " * 20)) for number in numbers]


def write(folder: Path, entries: Sequence[Entry]) -> str:
    folder.mkdir(exist_ok=True)
    with Ledger(folder, write=True) as ledger:
        ledger.store(entries)
        return ledger.head()


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "ledger.lock")


def edit(path: Path, statement: str) -> None:
    db = sqlite3.connect(path)
    with db:
        db.execute(statement)
    db.close()


words = st.none() | st.text(st.characters(exclude_categories=["Cs"]))
counts = st.integers(0, 2**53)
any_reply = st.builds(
    Reply,
    st.sampled_from(["ok", "refused"]),
    words.map(lambda text: text or ""),
    *[words] * 4,
    model=words.map(lambda text: text or ""),
    fingerprint=words,
    dialect=words.map(lambda text: text or ""),
    usage=st.builds(Usage, counts, counts, counts),
    seconds=st.floats(0, 1e9),
)


class TestReplies:
    @settings(deadline=None, max_examples=40)
    @given(any_reply)
    def test_come_back_as_they_were_stored(self, reply: Reply) -> None:
        with tempfile.TemporaryDirectory() as folder:
            with Ledger(Path(folder), write=True) as ledger:
                ledger.store([entry(1, reply)])
                assert ledger.get(key(1)) == reply
                assert list(ledger.damaged()) == []
            with Ledger(Path(folder)) as ledger:
                assert ledger.get(key(1)) == reply
                assert list(ledger.damaged()) == []

    def test_the_first_to_a_request_stands(self, tmp_path: Path) -> None:
        with Ledger(tmp_path, write=True) as ledger:
            ledger.store([entry(1), entry(1, replace(FULL, text="another"))])
            ledger.store([entry(1, replace(FULL, text="yet another"))])
            assert ledger.get(key(1)) == FULL
            assert ledger.head().startswith("1:")
            assert list(ledger.damaged()) == []

    def test_are_not_seen_before_they_are_safe(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            with Ledger(tmp_path, write=True) as ledger:
                appending = asyncio.create_task(ledger.append(entry(1)))
                await asyncio.sleep(0)
                assert ledger.get(key(2)) is None
                await appending
                assert ledger.get(key(1)) == FULL

        asyncio.run(scenario())

    def test_that_come_together_are_all_kept(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            with Ledger(tmp_path, write=True) as ledger:
                await asyncio.gather(*(ledger.append(entry(number)) for number in range(500)))
                assert all(ledger.get(key(number)) == FULL for number in range(500))

        asyncio.run(scenario())

    def test_that_wait_when_the_loop_is_torn_down_are_kept(self, tmp_path: Path) -> None:
        ledger = Ledger(tmp_path, write=True)

        async def scenario() -> None:
            for number in range(3):
                asyncio.create_task(ledger.append(entry(number)))  # noqa: RUF006
            await asyncio.sleep(0)

        asyncio.run(scenario())
        ledger.close()
        with Ledger(tmp_path) as ledger:
            assert all(ledger.get(key(number)) == FULL for number in range(3))

    def test_of_other_runs_answer_too_but_are_not_paid_for_twice(self, tmp_path: Path) -> None:
        other, file, own = tmp_path / "other", tmp_path / "file", tmp_path / "own"
        write(other, [entry(1)])
        write(file, [entry(2)])
        write(own, [entry(3)])
        with Ledger(own, read=[str(other), file / FILE]) as ledger:
            assert [ledger.get(key(n)) is not None for n in (1, 2, 3, 4)] == [True, True, True, False]
            assert [one.replies for one in ledger.spent()] == [1]
            assert ledger.head().startswith("3:")

    def test_are_counted_by_tier_and_model(self, tmp_path: Path) -> None:
        refused = Reply("refused", error="too long")
        write(tmp_path, [entry(1), entry(2), entry(3, refused), entry(4, tier="strong", model="large")])
        with Ledger(tmp_path) as ledger:
            assert ledger.spent() == [
                Spent("cheap", "small", 3, 1, Usage(240, 128, 18)),
                Spent("strong", "large", 1, 0, Usage(120, 64, 9)),
            ]
            assert {(c["tier"], c["endpoint"], c["dialect"]) for c in ledger.contexts()} == {
                ("cheap", "http://host/v1", "-seed"),
                ("cheap", "http://host/v1", ""),
                ("strong", "http://host/v1", "-seed"),
            }


class TestHead:
    def test_does_not_depend_on_the_order_nor_on_the_batches(self, tmp_path: Path) -> None:
        entries = [*texts(range(5)), entry(7), entry(8, tier="strong")]
        head = write(tmp_path / "a", entries)
        assert write(tmp_path / "b", entries[::-1]) == head
        for one in entries:
            again = write(tmp_path / "c", [one])
        assert again == head

    @pytest.mark.parametrize(
        "other", [entry(2), entry(1, replace(FULL, text="else")), entry(1, tier="strong"), entry(1, Reply("ok"))]
    )
    def test_tells_different_replies_apart(self, other: Entry, tmp_path: Path) -> None:
        assert write(tmp_path / "a", [entry(1)]) != write(tmp_path / "b", [other])


class TestFiles:
    def test_a_ledger_at_rest_is_one_file_and_reading_leaves_no_trace(self, tmp_path: Path) -> None:
        write(tmp_path, texts(range(9)))
        assert files(tmp_path) == [FILE]
        before = (tmp_path / FILE).read_bytes()
        with Ledger(tmp_path) as ledger:
            assert ledger.get(key(1)) is not None
            assert files(tmp_path) == [FILE]
        assert files(tmp_path) == [FILE]
        assert (tmp_path / FILE).read_bytes() == before

    def test_a_dictionary_is_learnt_and_all_stays_readable(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(segment, "DICTIONARY_AFTER", 50)
        with Ledger(tmp_path, write=True) as ledger:
            for number in range(120):
                ledger.store(texts([number]))
            found = [ledger.get(key(number)) for number in range(120)]
            assert found == [one.reply for one in texts(range(120))]
        write(tmp_path, texts(range(120, 130)))
        with Ledger(tmp_path) as ledger:
            assert [ledger.get(key(n)) for n in range(130)] == [one.reply for one in texts(range(130))]
            assert list(ledger.damaged()) == []
        db = sqlite3.connect(tmp_path / FILE)
        assert db.execute("SELECT dictionary, count(*) FROM reply GROUP BY 1").fetchall() == [(0, 50), (1, 80)]
        db.close()

    def test_a_full_file_is_followed_by_another(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(segment, "SEGMENT_BYTES", 1)
        with Ledger(tmp_path, write=True) as ledger:
            for number in range(4):
                ledger.store([entry(number)])
                assert all(ledger.get(key(n)) == FULL for n in range(number + 1))
            assert ledger.head().startswith("4:")
        assert len(files(tmp_path)) == 5
        write(tmp_path, [entry(9)])
        with Ledger(tmp_path) as ledger:
            assert [ledger.get(key(n)) for n in (0, 1, 2, 3, 9)] == [FULL] * 5
            assert list(ledger.damaged()) == []
            assert ledger.spent()[0].replies == 5
        assert all(name.endswith(".sqlite") for name in files(tmp_path))

    def test_a_crash_while_a_file_is_begun_does_no_harm(self, tmp_path: Path) -> None:
        (tmp_path / f"{FILE}.new").write_bytes(b"half a file")
        write(tmp_path, [entry(1)])
        assert files(tmp_path) == [FILE]


class TestWriters:
    def test_there_is_one_and_others_are_told_who(self, tmp_path: Path) -> None:
        told = f"process {os.getpid()} on {socket.gethostname()}"
        with Ledger(tmp_path, write=True) as ledger:
            with pytest.raises(LedgerError, match=told):
                Ledger(tmp_path, write=True)
            ledger.store([entry(1)])
            with Ledger(tmp_path) as reader:
                assert reader.get(key(1)) == FULL
        write(tmp_path, [entry(2)])

    def test_readers_do_not_write(self, tmp_path: Path) -> None:
        write(tmp_path, [entry(1)])
        with Ledger(tmp_path) as ledger, pytest.raises(LedgerError, match="reading only"):
            ledger.store([entry(2)])

    def test_a_batch_that_cannot_be_stored_leaves_no_trace(self, tmp_path: Path) -> None:
        wrong = entry(2, replace(FULL, text="\ud800"), tier="new")
        with Ledger(tmp_path, write=True) as ledger:
            with pytest.raises(TypeError):
                ledger.store([entry(1, tier="new"), wrong])
            ledger.store([entry(1, tier="new")])
            assert ledger.get(key(1)) == FULL
            assert ledger.get(key(2)) is None
            assert list(ledger.damaged()) == []

    def test_a_full_disk_is_said_and_what_was_there_is_safe(self, tmp_path: Path) -> None:
        with Ledger(tmp_path, write=True) as ledger:
            ledger.store([entry(1)])
            assert ledger._writer is not None
            ledger._writer._db.execute("PRAGMA max_page_count = 1")
            with pytest.raises(LedgerError, match="full"):
                ledger.store([entry(n, replace(FULL, text=os.urandom(40_000).hex()), tier="x") for n in range(2, 9)])
            ledger._writer._db.execute("PRAGMA max_page_count = 1000000")
            ledger.store([entry(9, tier="x")])
            assert ledger.get(key(1)) == ledger.get(key(9)) == FULL


class TestDamage:
    @pytest.mark.parametrize("keep", [0, 100, 5000, 0.5, 0.9])
    def test_a_truncated_file_is_an_error_and_never_an_empty_ledger(self, keep: float, tmp_path: Path) -> None:
        write(tmp_path, texts(range(200)))
        path = tmp_path / FILE
        content = path.read_bytes()
        path.write_bytes(content[: int(keep * len(content)) if 0 < keep < 1 else int(keep)])
        for for_writing in (False, True):
            with pytest.raises(Damaged, match=FILE):
                self.read_all(tmp_path, for_writing)

    @staticmethod
    def read_all(folder: Path, for_writing: bool) -> None:
        with Ledger(folder, write=for_writing) as ledger:
            assert list(ledger.damaged())
            for number in range(200):
                ledger.get(key(number))

    @pytest.mark.parametrize("for_writing", [False, True])
    @pytest.mark.parametrize("content", [b"garbage" * 1000, b"", b"SQLite format 3\0" + b"\7" * 5000])
    def test_garbage_is_not_a_ledger(self, content: bytes, for_writing: bool, tmp_path: Path) -> None:
        (tmp_path / FILE).write_bytes(content)
        with pytest.raises(Damaged, match="not a sound ledger"):
            Ledger(tmp_path, write=for_writing)
        (tmp_path / FILE).unlink()
        Ledger(tmp_path, write=True).close()

    @pytest.mark.parametrize("for_writing", [False, True])
    def test_a_newer_version_is_refused_whatever_it_holds(self, for_writing: bool, tmp_path: Path) -> None:
        write(tmp_path, [entry(1)])
        edit(tmp_path / FILE, f"PRAGMA user_version = {SCHEMA + 1}")
        edit(tmp_path / FILE, "DROP TABLE context")
        before = (tmp_path / FILE).read_bytes()
        with pytest.raises(LedgerError, match=rf"of version {SCHEMA + 1}.*Upgrade"):
            Ledger(tmp_path, write=for_writing)
        assert (tmp_path / FILE).read_bytes() == before

    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE reply SET body = substr(body, 1, 12) || x'00' || substr(body, 14) WHERE seq = 3",
            "UPDATE reply SET body = (SELECT body FROM reply WHERE seq = 4) WHERE seq = 3",
            "UPDATE reply SET finish_reason = 'length' WHERE seq = 3",
            "UPDATE reply SET prompt = prompt + 1 WHERE seq = 3",
            "UPDATE reply SET status = 'refused' WHERE seq = 3",
            "UPDATE reply SET at = at + 1 WHERE seq = 3",
            "UPDATE reply SET key = zeroblob(16) WHERE seq = 3",
            "UPDATE context SET content = replace(content, 'small', 'large')",
            "DELETE FROM context",
            "DELETE FROM reply WHERE seq = 3",
            "DELETE FROM reply",
            "UPDATE head SET replies = 4",
            "UPDATE spent SET prompt = prompt + 1",
            "DELETE FROM spent",
        ],
    )
    def test_whatever_is_changed_is_found(self, statement: str, tmp_path: Path) -> None:
        write(tmp_path, texts(range(5)))
        edit(tmp_path / FILE, statement)
        with Ledger(tmp_path) as ledger:
            assert any(FILE in found for found in ledger.damaged())

    @settings(deadline=None, max_examples=40)
    @given(st.data())
    def test_a_flipped_bit_in_a_body_is_found_and_nothing_raises(self, data: st.DataObject) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / FILE
            write(Path(folder), texts(range(3)))
            db = sqlite3.connect(path)
            (body,) = db.execute("SELECT body FROM reply WHERE seq = 2").fetchone()
            at, bit = data.draw(st.integers(0, len(body) - 1)), data.draw(st.integers(0, 7))
            flipped = bytearray(body)
            flipped[at] ^= 1 << bit
            with db:
                db.execute("UPDATE reply SET body = ? WHERE seq = 2", (bytes(flipped),))
            db.close()
            with Ledger(Path(folder)) as ledger:
                assert list(ledger.damaged()) == [f"{FILE}: the reply with key {key(1)} is not what was stored"]

    def test_a_body_that_claims_to_be_huge_is_damaged_and_not_unpacked(self, tmp_path: Path) -> None:
        write(tmp_path, [entry(1)])
        edit(
            tmp_path / FILE, "UPDATE reply SET body = x'28b52ffde0000000000000000f'"
        )  # a zstd frame of 15 * 2^56 bytes
        with Ledger(tmp_path) as ledger:
            assert list(ledger.damaged()) == [f"{FILE}: the reply with key {key(1)} is not what was stored"]

    def test_a_body_that_cannot_be_read_is_named(self, tmp_path: Path) -> None:
        write(tmp_path, [entry(1)])
        edit(tmp_path / FILE, "UPDATE reply SET body = x'00'")
        with Ledger(tmp_path) as ledger, pytest.raises(Damaged, match=f"{key(1)}.*relabel verify"):
            ledger.get(key(1))

    def test_a_body_that_can_be_read_but_is_another_is_never_given_out(self, tmp_path: Path) -> None:
        write(tmp_path, texts(range(2)))
        edit(tmp_path / FILE, "UPDATE reply SET body = (SELECT body FROM reply WHERE seq = 2) WHERE seq = 1")
        with Ledger(tmp_path) as ledger, pytest.raises(Damaged, match=f"{key(0)}.*checksum"):
            ledger.get(key(0))

    def test_that_shows_in_writing_is_told_from_a_full_disk(self, tmp_path: Path) -> None:
        write(tmp_path, texts(range(400)))
        db = sqlite3.connect(tmp_path / FILE)
        (root,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'reply_key'").fetchone()
        db.close()
        content = bytearray((tmp_path / FILE).read_bytes())
        content[(root - 1) * 4096 : root * 4096] = bytes(4096)
        (tmp_path / FILE).write_bytes(content)
        with Ledger(tmp_path, write=True) as ledger, pytest.raises(Damaged, match=r"cannot be written.*malformed"):
            ledger.store([entry(-1)])

    def test_a_writer_at_work_is_no_damage(self, tmp_path: Path) -> None:
        with Ledger(tmp_path, write=True) as ledger:
            ledger.store(texts(range(5)))
            with Ledger(tmp_path) as reader:
                found = reader.damaged()
                ledger.store(texts(range(5, 9)))
                assert list(found) == []
