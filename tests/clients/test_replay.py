"""A recorded ledger stands in for a server; nothing is ever sent."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from relabel.clients.replay import ReplayClient
from relabel.errors import LedgerError, Unanswered
from relabel.ledger import Entry, Ledger
from relabel.records import Call, Reply, Request
from relabel.settings import ReplayClientSettings

ASKED = Request("m", ({"role": "user", "content": "?"},), {})
RECORDED = Reply("ok", "yes", "stop", model="m-1", fingerprint="fp", dialect="-seed")


def record(folder: Path) -> None:
    with Ledger(folder, write=True) as ledger:
        ledger.store([Entry(Call(ASKED, "t", "c", "p"), RECORDED, "somewhere")])


def ask(path: Path, request: Request) -> Reply:
    async def scenario() -> Reply:
        client = ReplayClient(ReplayClientSettings(kind="replay", path=str(path)))
        await client.open()
        try:
            return await client.send(request)
        finally:
            await client.close()

    return asyncio.run(scenario())


@pytest.mark.parametrize("name", ["", "ledger-0001.sqlite"])
def test_answers_from_a_run_folder_or_a_file(name: str, tmp_path: Path) -> None:
    record(tmp_path)
    assert ask(tmp_path / name, ASKED) == RECORDED


def test_what_was_never_answered_is_unanswered(tmp_path: Path) -> None:
    record(tmp_path)
    with pytest.raises(Unanswered, match="holds no reply"):
        ask(tmp_path, Request("other", ASKED.messages, {}))


def test_the_ledger_of_the_working_directory_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    record(here)
    with Ledger(there, write=True):
        monkeypatch.chdir(here)
    with pytest.raises(Unanswered):
        ask(there, ASKED)


def test_a_folder_without_a_ledger_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="no ledger there"):
        ask(tmp_path, ASKED)
