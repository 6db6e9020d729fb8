"""Whatever is done to a run, its end is that of a run that nobody disturbed, and nothing is paid for twice."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from relabel.ledger import Ledger
from relabel.testing import FAULTS, Answer, LabelledJudge, MisbehavingServer, ReplyServer, rlhn_reply
from tests.conftest import settings, tevatron

Start = Callable[..., "subprocess.Popen[str]"]
KEY = "sk-never-to-be-seen-0123456789"
DERIVED = ("cleaned.jsonl", "decisions.parquet", "quarantine.jsonl")


def some_reply(body: dict[str, Any]) -> Answer:
    """Of every kind, by what is asked; when it comes is chance."""
    kind = random.Random(str(body["messages"])).randrange(10)
    text = "gibberish" if kind == 0 else rlhn_reply(better=[1]) if kind < 4 else rlhn_reply()
    return Answer(text, latency=random.uniform(0.01, 0.1))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `relabel run` in a process of its own, over 60 instances unless there is a source already."""
    started: list[subprocess.Popen[str]] = []

    def begin(url: str, *options: str, files: int | None = None, **client: Any) -> subprocess.Popen[str]:
        source = tmp_path / "train.jsonl"
        if not source.exists():
            source.write_text("".join(json.dumps(tevatron(n)) + "\n" for n in range(60)), encoding="utf-8")
        given = settings(source, url)
        given["cascade"] = [{"name": "only", "judge": {"prompt": "rlhn", "model": "m", "client": "local"}}]
        given["clients"]["local"] = {"kind": "openai", "base_url": url, "concurrency": 16, **client}
        (tmp_path / "my.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
        limit = (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))) if files else None
        process = subprocess.Popen(
            [sys.executable, "-m", "relabel", "run", "my.yaml", *options],
            cwd=tmp_path,
            env={**os.environ, "OPENAI_API_KEY": KEY},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=limit,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def relabel(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "relabel", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    """What it says on stderr once it has ended, so."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert KEY not in out + err
    return err


def derived(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in DERIVED}


def stored(folder: Path, server: ReplyServer) -> set[str]:
    with Ledger(folder) as ledger:
        return {key for key in server.keys if ledger.get(key) is not None}


class TestProcess:
    def test_that_is_killed_again_and_again_loses_nothing_and_pays_for_nothing_twice(
        self, start: Start, tmp_path: Path
    ) -> None:
        with ReplyServer(some_reply) as server:
            ended(start(server.url, "--output", "undisturbed"))
        with ReplyServer(some_reply) as server:
            in_flight = 0
            for replies in (10, 25, 40):
                process = start(server.url, "--output", "killed")
                while len(server.keys) < replies:
                    time.sleep(0.01)
                process.send_signal(signal.SIGKILL)
                process.communicate()
                safe, before = stored(tmp_path / "killed", server), dict(server.keys)
                in_flight += len(before) - len(safe)
            ended(start(server.url, "--output", "killed"))
            assert all(server.keys[key] == before[key] for key in safe)
            assert server.keys.total() - len(server.keys) <= in_flight
        assert derived(tmp_path / "killed") == derived(tmp_path / "undisturbed")

    def test_that_is_interrupted_ends_with_one_paragraph(self, start: Start, tmp_path: Path) -> None:
        with ReplyServer(some_reply) as server:
            process = start(server.url)
            while len(server.keys) < 20:
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            said = ended(process, 1)
        assert said.count("\n") == 1
        assert said.startswith("Stopped: interrupted. ")
        assert said.endswith("; running again goes on: relabel run my.yaml\n")

    def test_with_few_open_files_makes_do_with_fewer_connections(self, start: Start) -> None:
        with ReplyServer(some_reply) as server:
            said = ended(start(server.url, files=140))
        assert "12 at once at most, as this process may open 140 files" in said
        assert server.most_at_once <= 12


class TestDisk:
    def test_that_is_full_stops_the_run_and_keeps_what_was_stored(
        self, start: Start, disk: Path, tmp_path: Path
    ) -> None:
        def wordy(body: dict[str, Any]) -> str:
            return rlhn_reply() + random.Random(str(body["messages"])).randbytes(20_000).hex()

        with ReplyServer(wordy) as server:
            said = ended(start(server.url, "--output", "disk/run"), 1)
            assert "database or disk is full" in said
            assert "new replies are safe in disk/run" in said
            safe, before = stored(disk / "run", server), dict(server.keys)
            assert safe
            subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
            ended(start(server.url, "--output", "disk/run"))
            assert all(server.keys[key] == before[key] for key in safe)

    def test_that_is_full_when_all_is_answered_costs_no_request(self, start: Start, disk: Path, tmp_path: Path) -> None:
        long = [tevatron(n, note=random.Random(n).randbytes(40_000).hex()) for n in range(30)]
        source = tmp_path / "train.jsonl"
        source.write_text("".join(json.dumps(record) + "\n" for record in long), encoding="utf-8")
        with ReplyServer(some_reply) as server:
            said = ended(start(server.url, "--output", "disk/run"), 1)
            assert "No space left on device. Every request has its reply." in said
            assert not list((disk / "run").glob("*cleaned*"))
            asked = server.keys.total()
            subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
            ended(start(server.url, "--output", "disk/run"))
            assert server.keys.total() == asked

    def test_that_may_only_be_read_is_no_place_for_a_run(self, start: Start, disk: Path) -> None:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        said = ended(start("http://127.0.0.1:9/v1", "--output", "disk/run"), 2)
        assert "disk/run: cannot be made: Read-only file system; name another folder with --output" in said


class TestLedger:
    def test_that_is_damaged_is_salvaged_and_only_the_rest_is_asked_again(self, start: Start, tmp_path: Path) -> None:
        with ReplyServer(some_reply) as server:
            ended(start(server.url))
            folder = tmp_path / "outputs" / "my"
            before, asked = derived(folder), server.keys.total()
            db = sqlite3.connect(folder / "ledger-0001.sqlite")
            with db:
                db.execute("UPDATE reply SET body = zeroblob(20) WHERE seq IN (3, 5)")
            db.close()
            (folder / "report.json").unlink()
            said = ended(start(server.url))
            assert server.keys.total() == asked + 2
        assert "ledger-0001.sqlite is damaged" in said
        assert "replies salvaged, the others will be asked again" in said
        assert (folder / "ledger-0001.sqlite.damaged").exists()
        assert derived(folder) == before

    def test_that_is_damaged_under_a_finished_run_is_put_right_on_demand(self, start: Start, tmp_path: Path) -> None:
        with ReplyServer(some_reply) as server:
            ended(start(server.url))
            folder = tmp_path / "outputs" / "my"
            before = derived(folder)
            with closing(sqlite3.connect(folder / "ledger-0001.sqlite", isolation_level=None)) as db:
                db.execute("UPDATE spent SET prompt = 'many'")
            found = relabel("verify", str(folder))
            assert found.returncode == 1
            assert f"`relabel verify --salvage {folder}` keeps what can be read" in found.stdout
            found = relabel("verify", "--salvage", str(folder))
            assert " replies salvaged; the damaged file is kept" in found.stderr
            assert found.returncode == 0, found.stdout
            ended(start(server.url))
            assert server.keys.total() == len(server.keys)
        assert derived(folder) == before

    def test_that_lies_where_nothing_is_mounted_is_not_begun_anew(self, start: Start, tmp_path: Path) -> None:
        folder = tmp_path / "outputs" / "my"
        folder.mkdir(parents=True)
        (folder / "ledger-0001.sqlite").symlink_to("nowhere/ledger-0001.sqlite")
        with ReplyServer(some_reply) as server:
            assert "ledger-0001.sqlite: cannot be used" in ended(start(server.url), 2)
        assert not server.keys

    def test_that_is_being_written_says_by_whom(self, start: Start, tmp_path: Path) -> None:
        with ReplyServer(some_reply, latency=0.3) as server:
            process = start(server.url)
            while not server.keys:
                time.sleep(0.01)
            found = relabel("status", str(tmp_path / "outputs" / "my"))
            ended(process)
        assert f"not complete: process {process.pid} on " in found.stdout


class TestServer:
    def test_in_any_bad_health_is_borne_and_every_request_comes_to_an_end(self, start: Start, tmp_path: Path) -> None:
        passing = [name for name in FAULTS if name not in ("401", "404", "429-seconds", "429-date", "drip", "timeout")]
        shares = {name: 0.4 / len(passing) for name in passing} | {"timeout": 0.02}
        with MisbehavingServer(LabelledJudge({}, relevant=1), faults=shares, latency=0.02, spread=0.5) as server:
            ended(start(server.url, timeout=1))
        report = json.loads((tmp_path / "outputs" / "my" / "report.json").read_bytes())
        assert report["instances"]["in"] == report["instances"]["cleaned"] == 60
        assert report["candidates"]["unanswered"] == 0
        assert set(report["tiers"]["only"]["abstained"]) <= {"no_verdict", "empty_reply", "length", "content_filter"}

    def test_that_dies_and_returns_is_waited_for(self, start: Start, tmp_path: Path) -> None:
        with MisbehavingServer(some_reply, dies_after=20, dead_for=3) as server:
            said = ended(start(server.url))
        assert "is down (" in said
        assert "answers again" in said
        assert (tmp_path / "outputs" / "my" / "cleaned.jsonl").exists()

    def test_that_sends_everything_twice_is_not_believed_the_second_time(self, start: Start, tmp_path: Path) -> None:
        with ReplyServer(some_reply) as server:
            ended(start(server.url, "--output", "well"))
        with MisbehavingServer(some_reply, faults={"twice": 1.0}) as server:
            ended(start(server.url, "--output", "twice", concurrency=2))
        assert derived(tmp_path / "twice") == derived(tmp_path / "well")


class TestSecrets:
    @pytest.mark.parametrize("where", ["key", "address"])
    def test_stand_nowhere(self, where: str, start: Start, tmp_path: Path) -> None:
        def repeats(body: dict[str, Any]) -> Answer:
            said = f"no access for {KEY}, says http://user:hunter2@host"
            bad = random.Random(str(body["messages"])).random() < 0.2
            return Answer(status=400, body={"error": {"message": said}}) if bad else some_reply(body)

        address = "://user:hunter2@" if where == "address" else "://"
        with ReplyServer(repeats, keep=True) as server:
            process = start(server.url.replace("://", address))
            while not server.keys:
                time.sleep(0.01)
            title = Path(f"/proc/{process.pid}/cmdline").read_bytes()
            said = ended(process)
        sent = "Basic " if where == "address" else KEY
        assert all(sent in headers["Authorization"] for headers in server.headers)
        assert KEY.encode() not in title
        (tmp_path / "said").write_text(said, encoding="utf-8")
        (tmp_path / "my.yaml").unlink()  # that one the user wrote
        for path in tmp_path.rglob("*"):
            if path.is_file():
                assert KEY.encode() not in path.read_bytes()
                assert b"hunter2" not in path.read_bytes(), path

    def test_the_log_names_run_tier_and_request_of_what_went_wrong(self, start: Start, tmp_path: Path) -> None:
        refused = Answer(status=400, body={"error": {"message": "too long"}})
        with ReplyServer(lambda _: refused) as server:
            ended(start(server.url, "--output", "the-run"))
        lines = [json.loads(line) for line in (tmp_path / "the-run" / "log.jsonl").read_bytes().splitlines()]
        assert {line["run"] for line in lines} == {"the-run"}
        noted = [line for line in lines if line["event"] == "refused"]
        assert {(line["tier"], line["reason"]) for line in noted} == {("only", "status 400: too long")}
        assert {line["request"] for line in noted} == set(server.keys)
