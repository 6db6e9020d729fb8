"""Batches: nothing is lost, nothing is paid for twice, whatever happens to the process, the server or the files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from aiohttp import web

from relabel.clients.batches.spool import SPOOL
from relabel.config import Config
from relabel.errors import ConfigError, RelabelError, RunStopped
from relabel.ledger import Ledger
from relabel.runs import Summary, cancel_run, run
from relabel.testing import Answer, BatchServer, ReplyServer, rlhn_reply
from tests.conftest import config, settings, tevatron

DERIVED = ("cleaned.jsonl", "decisions.parquet", "quarantine.jsonl")
Start = Callable[..., "subprocess.Popen[str]"]
LINES = 30


def judged(body: dict[str, Any]) -> str:
    """A third of the queries hold something that is better."""
    return rlhn_reply(better=[1]) if sum(str(body["messages"]).encode()) % 3 == 0 else rlhn_reply()


def texts(body: dict[str, Any]) -> str:
    return " ".join(message["content"] for message in body["messages"])


def about(*numbers: int) -> Callable[[dict[str, Any]], bool]:
    return lambda body: any(f"the number {number}?" in texts(body) for number in numbers)


@pytest.fixture
def source(write_jsonl: Callable[..., Path]) -> Path:
    return write_jsonl([tevatron(number) for number in range(LINES)])


def batching(source: Path, url: str = "", **client: Any) -> Config:
    given = {"kind": "batch", "poll_every": 0.02, **({"base_url": url} if url else {}), **client}
    return config(source, clients={"local": given})


def done(config: Config, folder: Path, said: list[str] | None = None, **options: Any) -> Summary:
    summary = run(config, output=folder, say=(said if said is not None else []).append, **options)
    assert summary.report is not None, summary.stopped
    return summary


def stopped(config: Config, folder: Path, said: list[str] | None = None) -> str:
    with pytest.raises(RunStopped) as raised:
        run(config, output=folder, say=(said if said is not None else []).append)
    return str(raised.value)


def derived(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in DERIVED}


@pytest.fixture
def live(source: Path, tmp_path: Path) -> dict[str, bytes]:
    """What comes of it where every request is sent by itself."""
    with ReplyServer(judged) as server:
        done(config(source, server.url), tmp_path / "live")
    return derived(tmp_path / "live")


def interrupting(server: BatchServer) -> Callable[[object], None]:
    """Sends SIGINT, once, as soon as there is a batch."""
    sent: list[bool] = []

    def watch(_: object) -> None:
        if server.batches and not sent:
            sent.append(True)
            os.kill(os.getpid(), signal.SIGINT)

    return watch


def assert_paid_once(server: BatchServer) -> None:
    assert set(server.paid.values()) == {1}


class TestServer:
    def test_gives_the_files_that_live_requests_give(
        self, source: Path, live: dict[str, bytes], tmp_path: Path
    ) -> None:
        with BatchServer(judged) as server:
            done(batching(source, server.url, requests_per_file=12), tmp_path / "run")
            assert server.asked["small"] == LINES
            assert [len(one.lines) for one in server.batches.values()][:3] == [12, 12, 6]
            assert_paid_once(server)
            uploaded = {one.file for one in server.batches.values()}
            assert not uploaded & server.files.keys()
        assert derived(tmp_path / "run") == live
        assert not (tmp_path / "run" / SPOOL).exists()
        assert not (tmp_path / "run" / "batches").exists()

    def test_with_a_live_strong_tier_gives_the_same(self, source: Path, live: dict[str, bytes], tmp_path: Path) -> None:
        with BatchServer(judged) as server:
            given = settings(source, server.url)
            given["clients"]["cheap"] = {"kind": "batch", "base_url": server.url, "poll_every": 0.02}
            given["cascade"][0]["judge"]["client"] = "cheap"
            done(Config.model_validate(given), tmp_path / "run")
            assert server.paid.total() == LINES
            assert len(server.keys) == server.asked["large"] > 0
        assert derived(tmp_path / "run") == live

    def test_is_sent_files_within_both_limits_with_one_model_in_each(self, source: Path, tmp_path: Path) -> None:
        with BatchServer(judged) as server:
            done(batching(source, server.url, megabytes_per_file=0.02), tmp_path / "run")
            batches = list(server.batches.values())
            assert len(batches) >= 3
            assert all(sum(len(orjson.dumps(line)) + 1 for line in one.lines) <= 20_000 for one in batches)
            assert all(one.status == "completed" for one in batches)

    def test_is_sent_no_file_where_a_request_is_too_large_for_any(self, source: Path, tmp_path: Path) -> None:
        with BatchServer(judged) as server:
            said = stopped(batching(source, server.url, megabytes_per_file=0.001), tmp_path / "run")
            assert not server.files
        assert "bytes, and a file may hold 1,000; raise megabytes_per_file" in said

    def test_is_sent_what_a_live_one_is_and_the_ledger_says_where(self, source: Path, tmp_path: Path) -> None:
        said: list[str] = []
        with BatchServer(judged) as server:
            done(batching(source, server.url), tmp_path / "run", said)
            line = next(iter(server.batches.values())).lines[0]
        assert (line["method"], line["url"]) == ("POST", "/v1/chat/completions")
        assert line["body"].keys() == {"model", "messages", "temperature", "max_tokens"}
        assert any("30 requests of small" in one for one in said)
        with Ledger(tmp_path / "run") as ledger:
            assert ledger.contexts()[0]["endpoint"] == f"{server.url}/batches"
            assert ledger.get(line["custom_id"]) is not None

    def test_that_refuses_requests_is_not_asked_them_again(self, source: Path, tmp_path: Path) -> None:
        def long(body: dict[str, Any]) -> str | Answer:
            message = "This model's maximum context length is 8 tokens"
            if about(3, 4)(body):
                return Answer(status=400, body={"error": {"message": message, "code": "context_length_exceeded"}})
            return judged(body)

        with BatchServer(long) as server:
            summary = done(batching(source, server.url), tmp_path / "run")
            small = [one for one in server.batches.values() if one.lines[0]["body"]["model"] == "small"]
            assert len(small) == 1
        assert summary.report is not None
        assert summary.report["tiers"]["cheap"]["abstained"] == {"refused": 6}

    def test_that_does_not_take_a_parameter_is_asked_without_it(self, source: Path, tmp_path: Path) -> None:
        def strict(body: dict[str, Any]) -> str | Answer:
            if "max_tokens" in body:
                message = "Unsupported parameter: 'max_tokens' is not supported with this model."
                fault = {"message": message, "param": "max_tokens", "code": "unsupported_parameter"}
                return Answer(status=400, body={"error": fault})
            return judged(body)

        said: list[str] = []
        with BatchServer(strict) as server:
            done(batching(source, server.url), tmp_path / "run", said)
            assert_paid_once(server)
        assert any("does not take 'max_tokens'" in one for one in said)

    @pytest.mark.parametrize("takes", [0.0, 0.3])
    def test_that_has_no_room_gets_the_rest_later(
        self, takes: float, source: Path, live: dict[str, bytes], tmp_path: Path
    ) -> None:
        def full(lines: list[dict[str, Any]]) -> tuple[str, str] | None:
            busy = sum(one.status in ("validating", "in_progress") for one in server.batches.values())
            return ("token_limit_exceeded", "Enqueued token limit reached") if busy > 1 else None

        with BatchServer(judged, takes=takes, refuses=full) as server:
            done(batching(source, server.url, requests_per_file=8), tmp_path / "run")
            assert any(one.status == "failed" for one in server.batches.values())
            assert_paid_once(server)
        assert derived(tmp_path / "run") == live

    def test_that_has_no_room_at_all_stops_the_run(self, source: Path, tmp_path: Path) -> None:
        with BatchServer(judged, refuses=lambda _: ("token_limit_exceeded", "Enqueued token limit reached")) as server:
            said = stopped(batching(source, server.url, requests_per_file=8), tmp_path / "run")
        assert (
            "token_limit_exceeded: Enqueued token limit reached. Lower requests_per_file, or run again later." in said
        )


class TestWithoutReply:
    def test_requests_of_an_expired_batch_are_asked_again_and_no_others(
        self, source: Path, live: dict[str, bytes], tmp_path: Path
    ) -> None:
        seen: set[str] = set()

        def first_time(body: dict[str, Any]) -> bool:
            fresh = about(1, 2, 5)(body) and texts(body) not in seen
            seen.add(texts(body))
            return fresh

        said: list[str] = []
        with BatchServer(judged, expires=first_time) as server:
            done(batching(source, server.url), tmp_path / "run", said)
            assert_paid_once(server)
        assert derived(tmp_path / "run") == live
        assert any("expired; " in one and "without: batch_expired" in one for one in said)

    def test_requests_that_fail_at_the_server_are_asked_again(
        self, source: Path, live: dict[str, bytes], tmp_path: Path
    ) -> None:
        failed: set[str] = set()

        def flaky(body: dict[str, Any]) -> str | Answer:
            if about(7)(body) and texts(body) not in failed:
                failed.add(texts(body))
                return Answer(status=500, body={"error": {"message": "oops"}})
            return judged(body)

        with BatchServer(flaky) as server:
            done(batching(source, server.url), tmp_path / "run")
            assert_paid_once(server)
        assert derived(tmp_path / "run") == live

    def test_requests_are_given_up_after_three_batches_and_asked_again_by_another_run(
        self, source: Path, live: dict[str, bytes], tmp_path: Path
    ) -> None:
        ill = True
        with BatchServer(judged, expires=lambda body: ill and about(1)(body)) as server:
            said = stopped(batching(source, server.url), tmp_path / "run")
            number = len([one for one in server.batches.values() if any(about(1)(x["body"]) for x in one.lines)])
            assert number == 3
            assert "requests came out of 3 batches without a reply, at last: batch_expired" in said
            assert "; running again goes on" in said
            ill = False
            done(batching(source, server.url), tmp_path / "run")
            assert_paid_once(server)
        assert derived(tmp_path / "run") == live

    def test_a_batch_that_fails_as_a_whole_stops_the_run_in_the_server_s_words(
        self, source: Path, tmp_path: Path
    ) -> None:
        with BatchServer(judged, refuses=lambda _: ("invalid_json_line", "This line is not valid")) as server:
            said = stopped(batching(source, server.url), tmp_path / "run")
            assert "failed as a whole: invalid_json_line: This line is not valid." in said
            assert not server.paid

    def test_a_model_that_is_not_there_stops_the_run(self, source: Path, tmp_path: Path) -> None:
        gone = Answer(status=404, body={"error": {"message": "The model `small` does not exist"}})
        with BatchServer(lambda _: gone) as server:
            said = stopped(batching(source, server.url), tmp_path / "run")
        assert "The model `small` does not exist" in said
        assert "Check the tier's model" in said


class TestBudget:
    def test_of_requests_is_kept_and_goes_on_when_it_is_raised(
        self, source: Path, live: dict[str, bytes], tmp_path: Path
    ) -> None:
        with BatchServer(judged) as server:
            given = batching(source, server.url)
            small = given.model_copy(update={"budget": given.budget.model_copy(update={"requests": 10})})
            summary = run(small, output=tmp_path / "run", say=print)
            assert summary.stopped == "budget.requests (10) is reached"
            assert server.paid.total() == 10
            done(given, tmp_path / "run")
            assert_paid_once(server)
        assert derived(tmp_path / "run") == live

    def test_of_dollars_and_the_report_count_half(self, source: Path, tmp_path: Path) -> None:
        prices = {name: {"prompt": 10.0, "completion": 30.0} for name in ("small", "large")}
        with BatchServer(judged) as server:
            whole = config(source, server.url, prices=prices)
            half = Config.model_validate({**batching(source, server.url).model_dump(), "prices": prices})
            costs = [done(one, tmp_path / str(n)).report["usd"] for n, one in enumerate((whole, half))]  # type: ignore[index]
        assert costs[1] == pytest.approx(costs[0] / 2)
        written = settings(source, clients={"local": {"kind": "batch", "submit": False}}, prices=prices)
        assert Config.model_validate(written).rates == whole.prices


class TestTrouble:
    def test_another_key_is_told_apart_from_a_lost_batch(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with BatchServer(judged, takes=60) as server:
            monkeypatch.setenv("OPENAI_API_KEY", "sk-the-first-key-0001")
            said: list[str] = []
            given = batching(source, server.url)
            summary = run(given, output=tmp_path / "run", say=said.append, watch=interrupting(server))
            assert summary.stopped == "interrupted"
            assert "They go on at the server; running again takes them in." in said[-1]
            monkeypatch.setenv("OPENAI_API_KEY", "sk-the-other-key-002")
            (batch,) = server.batches
            words = stopped(given, tmp_path / "run")
            assert f"This run has submitted the batch {batch}: was that with another key" in words
            assert f"delete {tmp_path / 'run' / SPOOL}" in words
            assert not server.paid
            monkeypatch.setenv("OPENAI_API_KEY", "sk-the-first-key-0001")
            server.takes = 0
            done(given, tmp_path / "run")
            assert_paid_once(server)

    def test_a_wrong_key_stops_at_once_and_is_not_shown(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key = "sk-secret-secret-secret"
        monkeypatch.setenv("OPENAI_API_KEY", key)
        refusal = web.json_response
        fault = {"error": {"message": f"Incorrect API key provided: {key}.", "code": "invalid_api_key"}}
        with BatchServer(judged, before=lambda _: refusal(fault, status=401)) as server:
            started = time.monotonic()
            said = stopped(batching(source, server.url), tmp_path / "run")
            assert time.monotonic() - started < 5
        assert "Incorrect API key provided: ***" in said
        assert "Check the key in OPENAI_API_KEY" in said
        assert key not in said

    def test_a_server_without_batches_is_said_to_be_one(self, source: Path, tmp_path: Path) -> None:
        with ReplyServer(judged) as server:
            said = stopped(batching(source, server.url), tmp_path / "run")
        assert "`kind: batch` needs a server that takes files and batches" in said

    def test_failures_while_polling_are_waited_out(self, source: Path, live: dict[str, bytes], tmp_path: Path) -> None:
        turns = iter(range(10_000))

        def flaky(request: web.Request) -> web.Response | None:
            if request.method == "GET" and next(turns) % 3 != 2:
                return web.json_response({"error": {"message": "busy"}}, status=503 if next(turns) % 2 else 429)
            return None

        with BatchServer(judged, before=flaky) as server:
            done(batching(source, server.url), tmp_path / "run")
            assert_paid_once(server)
        assert derived(tmp_path / "run") == live

    def test_a_server_that_is_gone_for_a_while_is_waited_for(
        self, source: Path, live: dict[str, bytes], tmp_path: Path
    ) -> None:
        with BatchServer(judged, takes=0.5) as server:
            gone: list[float] = []

            def watch(_: object) -> None:
                if server.batches and not gone:
                    gone.append(time.monotonic())
                    server.die()
                elif gone and gone[-1] > 0 and time.monotonic() - gone[0] > 0.8:
                    gone.append(0)
                    server.rise()

            done(batching(source, server.url), tmp_path / "run", watch=watch)
            assert len(gone) == 2
            assert_paid_once(server)
        assert derived(tmp_path / "run") == live

    def test_a_download_that_breaks_off_is_begun_anew(
        self, source: Path, live: dict[str, bytes], tmp_path: Path
    ) -> None:
        cuts = iter(["abort", "close", ""])

        async def cut(request: web.Request) -> web.StreamResponse | None:
            if not request.path.endswith("/content") or not (manner := next(cuts, "")):
                return None
            response = web.StreamResponse(headers={"Content-Length": "9000"})
            await response.prepare(request)
            await response.write(b'{"custom_id": "')
            assert request.transport is not None
            getattr(request.transport, manner)()
            return response

        with BatchServer(judged, before=cut) as server:
            done(batching(source, server.url), tmp_path / "run")
            assert_paid_once(server)
        assert derived(tmp_path / "run") == live

    def test_nonsense_with_status_200_is_not_taken_for_a_batch(self, source: Path, tmp_path: Path) -> None:
        def page(_: web.Request) -> web.Response:
            return web.Response(text="<html>Log in</html>", content_type="text/html")

        with BatchServer(judged, before=page) as server:
            said = stopped(batching(source, server.url), tmp_path / "run")
        assert "nothing that a Batch API would send" in said
        assert "Is it up, and is base_url (or OPENAI_BASE_URL) right?" in said

    def test_a_file_of_replies_that_is_gone_stops_the_run(self, source: Path, tmp_path: Path) -> None:
        def gone(request: web.Request) -> web.Response | None:
            fault = {"error": {"message": "No such File object"}}
            return web.json_response(fault, status=404) if request.path.endswith("/content") else None

        with BatchServer(judged, before=gone) as server:
            said = stopped(batching(source, server.url), tmp_path / "run")
        assert "No such File object" in said
        assert "To have all that is under way asked, and paid, anew, delete" in said

    def test_lines_that_cannot_be_read_are_kept_and_their_requests_asked_again(
        self, source: Path, live: dict[str, bytes], tmp_path: Path
    ) -> None:
        spoilt: list[str] = []

        def spoil(request: web.Request) -> web.Response | None:
            if request.path.endswith("/content") and not spoilt:
                lines = server.files[request.match_info["id"]][1].splitlines(keepends=True)
                spoilt.append(orjson.loads(lines[2])["custom_id"])
                return web.Response(body=b"".join([*lines[:2], lines[2][:40] + b"\n", *lines[3:]]))
            return None

        said: list[str] = []
        with BatchServer(judged, before=spoil) as server:
            done(batching(source, server.url), tmp_path / "run", said)
            assert [key for key, times in server.paid.items() if times > 1] == spoilt
        assert derived(tmp_path / "run") == live
        assert any("29 replies to 30 requests" in one and "1 line cannot be read (line 3)" in one for one in said)
        assert len(list((tmp_path / "run" / "batches").glob("*.unread.jsonl"))) == 1

    @pytest.mark.parametrize("content", [b"", b"<html>Log in</html>", b'{"custom_id": "x"}\n' * 3])
    def test_a_batch_whose_answers_do_not_come_is_not_paid_again(
        self, content: bytes, source: Path, live: dict[str, bytes], tmp_path: Path
    ) -> None:
        withheld = True

        def withhold(request: web.Request) -> web.Response | None:
            return web.Response(body=content) if withheld and request.path.endswith("/content") else None

        with BatchServer(judged, before=withhold) as server:
            said = stopped(batching(source, server.url), tmp_path / "run")
            assert "with 30 requests done, and its files hold" in said
            withheld = False
            done(batching(source, server.url), tmp_path / "run")
            assert_paid_once(server)
        assert derived(tmp_path / "run") == live

    def test_what_is_in_a_batch_is_not_sent_live(self, source: Path, tmp_path: Path) -> None:
        with BatchServer(judged, takes=60) as server:
            run(batching(source, server.url), output=tmp_path / "run", say=print, watch=interrupting(server))
            now_live = settings(source)
            now_live["clients"]["local"]["base_url"] = server.url
            with pytest.raises(ConfigError, match="30 requests are in 1 batches or files of a client of kind batch"):
                run(Config.model_validate(now_live), output=tmp_path / "run", say=print)
            assert not server.paid

    def test_a_batch_whose_creation_went_unheard_is_not_created_twice(
        self, source: Path, live: dict[str, bytes], tmp_path: Path
    ) -> None:
        unheard = iter([True, False, True])

        def lost(request: web.Request) -> web.Response | None:
            made = request.method == "POST" and request.path == "/v1/batches"
            return web.Response(status=502, text="Bad Gateway") if made and next(unheard, False) else None

        with BatchServer(judged, after=lost) as server:
            done(batching(source, server.url, requests_per_file=20), tmp_path / "run")
            assert_paid_once(server)
        assert derived(tmp_path / "run") == live

    def test_cancel_keeps_what_was_answered_and_asks_the_rest_when_told(
        self, source: Path, live: dict[str, bytes], tmp_path: Path
    ) -> None:
        said: list[str] = []
        with BatchServer(judged, takes=60) as server:
            given = batching(source, server.url, poll_every=0.2)
            found: list[str] = []

            def watch(_: object) -> None:
                if server.batches and not found:
                    found.extend(cancel_run(tmp_path / "run"))

            with pytest.raises(RunStopped, match="cancelled: batch-") as raised:
                run(given, output=tmp_path / "run", say=said.append, watch=watch)
            assert found == list(server.batches)
            assert "the rest has not been asked again" in str(raised.value)
            assert server.paid.total() == LINES // 2
            assert len(server.batches) == 1
            assert cancel_run(tmp_path / "run") == []
            server.takes = 0
            done(given, tmp_path / "run")
            assert_paid_once(server)
        assert derived(tmp_path / "run") == live

    def test_status_and_cancel_say_what_is_under_way(self, source: Path, tmp_path: Path) -> None:
        with BatchServer(judged, takes=60) as server:
            given = settings(source)
            given["clients"]["local"] = {"kind": "batch", "base_url": server.url}
            (tmp_path / "my.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
            relabel = [sys.executable, "-m", "relabel"]
            process = subprocess.Popen(
                [*relabel, "run", "my.yaml"], cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
            )
            while not server.batches:
                time.sleep(0.05)
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            began = time.monotonic()
            _, said = process.communicate(timeout=60)
            assert time.monotonic() - began < 30  # it does not wait for the next look, a minute on
            assert process.returncode == 1
            assert "They go on at the server; running again takes them in." in said
            assert "Stopped: interrupted. Nothing is lost; running again goes on: relabel run my.yaml" in said

            def out(command: str) -> str:
                words = [*relabel, command, "outputs/my"]
                return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False).stdout

            assert "batches     1 submitted, 30 requests of theirs not taken in yet" in out("status")
            takes_in = "`relabel run outputs/my` takes in what was answered"
            assert out("cancel") == f"cancelled   {next(iter(server.batches))}\n{takes_in}\n"
            assert out("cancel") == "no batch is under way at a server\n"

    def test_cancel_says_so_where_there_are_no_batches(self, source: Path, tmp_path: Path) -> None:
        with ReplyServer(judged) as server:
            done(config(source, server.url), tmp_path / "run")
        with pytest.raises(RelabelError, match="no client of this run is of `kind: batch`"):
            cancel_run(tmp_path / "run")

    def test_a_damaged_spool_is_said_with_what_it_costs(self, source: Path, tmp_path: Path) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / SPOOL).write_bytes(b"SQLite format 3\0" + b"\xff" * 4000)
        with BatchServer(judged) as server, pytest.raises(RelabelError, match=r"cannot be used.*is then paid again"):
            run(batching(source, server.url), output=tmp_path / "run")


KILLED = """
import os, signal, sys
from pathlib import Path
from relabel.clients.batches import intake, provider, spool, submitted
from relabel.cli import main

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def before(owner, name):
    setattr(owner, name, die)

def after(owner, name):
    act = getattr(owner, name)
    async def then(*given, **named):
        await act(*given, **named)
        die()
    setattr(owner, name, then)

def amid_intake():
    act, times = intake.Intake._store, []
    async def store(self, call, reply):
        await act(self, call, reply)
        times.append(1)
        if len(times) == 7:
            die()
    intake.Intake._store = store
    intake._AT_ONCE = 5

{
    "before upload": lambda: before(provider.Provider, "upload"),
    "after upload": lambda: after(provider.Provider, "upload"),
    "before creation": lambda: before(provider.Provider, "create"),
    "after creation": lambda: after(provider.Provider, "create"),
    "while polling": lambda: before(provider.Provider, "sleep"),
    "before download": lambda: before(provider.Provider, "download"),
    "while taking in": amid_intake,
    "before the end": lambda: before(spool.Spool, "finish"),
}[sys.argv.pop()]()
main()
"""
MOMENTS = [
    "before upload",
    "after upload",
    "before creation",
    "after creation",
    "while polling",
    "before download",
    "while taking in",
    "before the end",
]


class TestKilled:
    @staticmethod
    def relabel(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *words]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)

    @pytest.mark.parametrize("moment", MOMENTS)
    def test_ends_as_an_undisturbed_run_and_pays_for_nothing_twice(
        self, moment: str, source: Path, live: dict[str, bytes], tmp_path: Path
    ) -> None:
        with BatchServer(judged, takes=0.3) as server:
            given = settings(source)
            given["clients"]["local"] = {
                "kind": "batch",
                "base_url": server.url,
                "poll_every": 0.05,
                "requests_per_file": 20,
            }
            (tmp_path / "my.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
            killed = self.relabel(tmp_path, "-c", KILLED, "run", "my.yaml", moment)
            assert killed.returncode == -signal.SIGKILL, killed.stderr
            ended = self.relabel(tmp_path, "-m", "relabel", "run", "my.yaml")
            assert ended.returncode == 0, ended.stderr
            assert_paid_once(server)
            assert server.asked["small"] == LINES
        assert derived(tmp_path / "outputs" / "my") == live
        assert not (tmp_path / "outputs" / "my" / SPOOL).exists()

    def test_while_taking_in_counts_no_reply_twice_against_the_budget(
        self, source: Path, live: dict[str, bytes], tmp_path: Path
    ) -> None:
        with BatchServer(judged) as server:
            done(batching(source, server.url), tmp_path / "undisturbed")
            needed = server.paid.total()
        with BatchServer(judged) as server:
            given = settings(source, budget={"requests": needed})
            given["clients"]["local"] = {"kind": "batch", "base_url": server.url, "poll_every": 0.05}
            (tmp_path / "my.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
            self.relabel(tmp_path, "-c", KILLED, "run", "my.yaml", "while taking in")
            with Ledger(tmp_path / "outputs" / "my") as ledger:
                assert 0 < ledger.spent()[0].replies < LINES
            ended = self.relabel(tmp_path, "-m", "relabel", "run", "my.yaml")
            assert ended.returncode == 0, ended.stderr
            assert_paid_once(server)
        assert derived(tmp_path / "outputs" / "my") == live

    def test_again_and_again_at_any_moment(self, source: Path, live: dict[str, bytes], tmp_path: Path) -> None:
        with BatchServer(judged, takes=0.2) as server:
            given = settings(source)
            given["clients"]["local"] = {"kind": "batch", "base_url": server.url, "poll_every": 0.05}
            (tmp_path / "my.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
            for moment in MOMENTS:
                self.relabel(tmp_path, "-c", KILLED, "run", "my.yaml", moment)
            ended = self.relabel(tmp_path, "-m", "relabel", "run", "my.yaml")
            assert ended.returncode == 0, ended.stderr
            assert_paid_once(server)
        assert derived(tmp_path / "outputs" / "my") == live


def answered(path: Path, handler: Callable[[dict[str, Any]], str] = judged) -> list[dict[str, Any]]:
    """What `vllm run-batch` would make of a file."""
    from relabel.testing import completion

    found = []
    for line in path.read_bytes().splitlines():
        asked = orjson.loads(line)
        body = completion(asked["body"], Answer(handler(asked["body"])))
        response = {"status_code": 200, "request_id": "r", "body": body}
        found.append({"id": "vllm-1", "custom_id": asked["custom_id"], "response": response, "error": None})
    return found


def write(path: Path, lines: Sequence[dict[str, Any] | bytes]) -> None:
    path.write_bytes(b"".join(one if isinstance(one, bytes) else orjson.dumps(one) + b"\n" for one in lines))


class TestFiles:
    @pytest.fixture
    def given(self, source: Path) -> Config:
        return config(source, clients={"local": {"kind": "batch", "submit": False, "requests_per_file": 20}})

    @pytest.fixture
    def folder(self, given: Config, tmp_path: Path) -> Path:
        said = stopped(given, tmp_path / "run")
        assert "30 requests are written to" in said
        assert "vllm run-batch -i" in said
        assert "0001.out.jsonl --model small`, and the others up to 0002.jsonl in the same way" in said
        return tmp_path / "run" / "batches"

    def test_that_are_answered_give_what_live_requests_give(
        self, given: Config, folder: Path, live: dict[str, bytes]
    ) -> None:
        for _ in range(3):
            for path in sorted(folder.glob("[0-9][0-9][0-9][0-9].jsonl")):
                write(folder / f"{path.stem}.out.jsonl", answered(path))
            try:
                done(given, folder.parent)
                break
            except RunStopped:
                continue
        assert derived(folder.parent) == live
        with Ledger(folder.parent) as ledger:
            assert ledger.contexts()[0]["endpoint"] == "batch-file"
        assert not list(folder.glob("[0-9][0-9][0-9][0-9].jsonl"))

    def test_that_wait_are_named_again_and_not_written_again(self, given: Config, folder: Path) -> None:
        write(folder / "0001.out.jsonl", answered(folder / "0001.jsonl"))
        said = stopped(given, folder.parent)
        assert "16 requests are written to" in said  # with six that the replies lead to
        assert "0002.out.jsonl --model small`, and the others up to 0003.jsonl in the same way" in said
        assert sorted(path.name for path in folder.iterdir()) == ["0001.out.jsonl", "0002.jsonl", "0003.jsonl"]

    def test_with_failed_lines_are_taken_in_and_these_asked_in_the_next(self, given: Config, folder: Path) -> None:
        lines = answered(folder / "0001.jsonl")
        lines[3] |= {"response": {"status_code": 500, "request_id": "r", "body": None}, "error": {"message": "oops"}}
        lines[4] |= {"response": {"status_code": 400, "request_id": "r"}, "error": {"error": {"message": "too long"}}}
        write(folder / "0001.out.jsonl", lines)
        write(folder / "0002.out.jsonl", answered(folder / "0002.jsonl"))
        said = stopped(given, folder.parent)
        assert "requests are written to" in said
        asked = [orjson.loads(line)["custom_id"] for line in (folder / "0003.jsonl").read_bytes().splitlines()]
        with Ledger(folder.parent) as ledger:
            assert [key for key in asked if ledger.get(key) is not None] == []
            refused = ledger.get(lines[4]["custom_id"])
        assert refused is not None
        assert (refused.status, refused.error) == ("refused", "status 400: too long")
        every = [path for path in folder.glob("000[3-9].jsonl") if lines[3]["custom_id"].encode() in path.read_bytes()]
        assert len(every) == 1

    @pytest.mark.parametrize(
        ("tail", "words"),
        [
            (b'{"id": "vllm-1", "custom_id": "0a', "1 line cannot be read (line 6)"),
            (b"", "15 have no line in it"),
            (b'{"custom_id": "x", "response": null, "error": {"code": "c"}}\n', "1 line for no request of it ('x')"),
        ],
    )
    def test_half_written_are_taken_as_far_as_they_go_and_waited_for(
        self, tail: bytes, words: str, given: Config, folder: Path
    ) -> None:
        lines = answered(folder / "0001.jsonl")
        write(folder / "0001.out.jsonl", [*lines[:5], tail])
        said = stopped(given, folder.parent)
        assert words in said
        assert "15 have no line in it. If it is still being written, wait." in said
        assert (folder / "0001.jsonl").exists()
        with Ledger(folder.parent) as ledger:
            assert sum(ledger.get(line["custom_id"]) is not None for line in lines) == 5
        write(folder / "0001.out.jsonl", lines)
        assert "0002.out.jsonl --model small`" in stopped(given, folder.parent)
        with Ledger(folder.parent) as ledger:
            assert all(ledger.get(line["custom_id"]) is not None for line in lines)

    def test_that_are_deleted_are_asked_in_another(self, given: Config, folder: Path) -> None:
        (folder / "0001.jsonl").unlink()
        assert "10 requests are written to" in stopped(given, folder.parent)
        assert "30 requests are written to" in stopped(given, folder.parent)

    def test_of_two_clients_lie_side_by_side(self, source: Path, live: dict[str, bytes], tmp_path: Path) -> None:
        given = settings(source)
        given["clients"] = {name: {"kind": "batch", "submit": False} for name in ("local", "other")}
        given["cascade"][1]["judge"]["client"] = "other"
        both, folder = Config.model_validate(given), tmp_path / "both"
        batches = folder / "batches"
        for answered_by_now in ("0001", "0002"):
            stopped(both, folder)
            write(batches / f"{answered_by_now}.out.jsonl", answered(batches / f"{answered_by_now}.jsonl"))
        done(both, folder)
        assert derived(folder) == live

    def test_may_be_submitted_after_all_but_a_batch_under_way_is_not_written(
        self, given: Config, folder: Path, source: Path, live: dict[str, bytes]
    ) -> None:
        with BatchServer(judged, takes=60) as server:
            submitting = batching(source, server.url)
            run(submitting, output=folder.parent, say=print, watch=interrupting(server))
            assert "1 parts of this run are under way at a server" in stopped(given, folder.parent)
            server.takes = 0
            done(submitting, folder.parent)
            assert_paid_once(server)
        assert derived(folder.parent) == live

    def test_that_nobody_wants_any_more_are_not_waited_for(self, given: Config, folder: Path) -> None:
        other = given.model_dump()
        other["cascade"][0]["judge"]["temperature"] = 0.7
        stopped(Config.model_validate(other), folder.parent)
        assert sorted(path.name for path in folder.iterdir()) == ["0003.jsonl", "0004.jsonl"]


def test_memory_does_not_grow_with_the_calls_and_a_key_is_kept_once(tmp_path: Path) -> None:
    from relabel.clients.batches.spool import Spool
    from relabel.records import Call
    from tests.clients.shared import request

    spool = Spool(tmp_path, "local")
    calls = [Call(request(f"{n % 1200}", temperature=0.1), "t", "local", "p") for n in range(3000)]
    for call in calls:
        spool.put(call)
        assert len(spool._waiting) < 500
    spool.flush()
    assert [call.request.key for call in spool.pending(3)] == [call.request.key for call in calls[:1200]]
    spool.close()
