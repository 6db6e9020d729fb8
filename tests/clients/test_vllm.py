"""Several vLLM servers share the work, each query's at one of them, and the work of one that dies."""

from __future__ import annotations

import asyncio
import itertools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pydantic import ValidationError

from relabel.clients import Client, make_client
from relabel.clients.engine import EngineClient
from relabel.clients.vllm import VLLMClient
from relabel.errors import RunStopped
from relabel.records import Reply, Request
from relabel.settings import VLLMClientSettings
from relabel.testing import Answer, ReplyServer
from tests.clients.shared import error, request
from tests.conftest import config

METRICS = """
# HELP vllm:num_requests_running Number of requests
vllm:num_requests_running{engine="0",model_name="tiny"} 3.0
vllm:num_requests_waiting{engine="0",model_name="tiny"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="tiny",reason="capacity"} 1.0
vllm:prefix_cache_queries_total{engine="0",model_name="tiny"} 2000.0
vllm:prefix_cache_hits_total{engine="0",model_name="tiny"} 1.5e+03
vllm:prefix_cache_hits_created{engine="0",model_name="tiny"} 1.79e+09
"""


class PosingAsVLLM(ReplyServer):
    def add_routes(self, app: web.Application) -> None:
        async def version(_: web.Request) -> web.Response:
            return web.json_response(text='{"version":"0.32.0"}')

        async def metrics(_: web.Request) -> web.Response:
            return web.Response(text=METRICS)

        super().add_routes(app)
        app.router.add_get("/version", version)
        app.router.add_get("/metrics", metrics)


def client(*servers: ReplyServer, say: Callable[[str], None] = print, **settings: Any) -> VLLMClient:
    urls = [server.url for server in servers]
    return VLLMClient("gpu", VLLMClientSettings(kind="vllm", base_url=urls, **settings), say)


async def ask(asked: Client, *calls: tuple[Request, str]) -> list[Reply | BaseException]:
    """As a run does it: never with many more calls open than may be in flight."""
    room = asyncio.Semaphore(16 + 2 * asked.concurrency)

    async def one(request: Request, near: str) -> Reply:
        async with room:
            return await asked.send(request, near)

    await asked.open()
    try:
        return await asyncio.gather(*(one(*call) for call in calls), return_exceptions=True)
    finally:
        await asked.close()


def calls(queries: int, each: int) -> list[tuple[Request, str]]:
    return [(request(f"{query} {n}"), f"q{query}") for query in range(queries) for n in range(each)]


def texts(found: list[Reply | BaseException]) -> set[str]:
    assert all(isinstance(one, Reply) for one in found), found
    return {one.text for one in found if isinstance(one, Reply)}


class TestServers:
    def test_share_the_work_and_one_query_stays_at_one(self) -> None:
        with (
            ReplyServer(lambda _: "yes", latency=0.01, keep=True) as one,
            ReplyServer(lambda _: "yes", keep=True) as two,
        ):
            assert texts(asyncio.run(ask(client(one, two), *calls(40, 5)))) == {"yes"}
        at = [{body["messages"][0]["content"].split()[0] for body in server.bodies} for server in (one, two)]
        assert all(60 < server.asked.total() < 140 for server in (one, two))
        assert len(at[0] & at[1]) < 10

    def test_a_busy_one_is_spared(self) -> None:
        with ReplyServer(lambda _: "yes", latency=0.3) as slow, ReplyServer(lambda _: "yes", latency=0.01) as quick:
            assert texts(asyncio.run(ask(client(slow, quick), *((request(str(n)), "q") for n in range(60))))) == {"yes"}
        assert slow.asked.total()
        assert quick.asked.total()

    def test_one_that_dies_leaves_its_work_to_the_others(self) -> None:
        said: list[str] = []
        with ReplyServer(lambda _: "yes", latency=0.02) as one, ReplyServer(lambda _: "yes", latency=0.02) as two:

            async def scenario() -> list[Reply | BaseException]:
                asking = asyncio.create_task(ask(client(one, two, say=said.append, concurrency=4), *calls(50, 4)))
                await asyncio.sleep(0.1)
                await asyncio.to_thread(two.die)
                return await asking

            assert texts(asyncio.run(scenario())) == {"yes"}
        assert any("is down" in words for words in said)

    def test_one_that_returns_works_again(self) -> None:
        with ReplyServer(lambda _: "yes", latency=0.05) as one, ReplyServer(lambda _: "yes", latency=0.05) as two:

            async def scenario() -> list[Reply | BaseException]:
                asking = asyncio.create_task(ask(client(one, two, concurrency=4), *calls(120, 4)))
                await asyncio.sleep(0.1)
                await asyncio.to_thread(two.die)
                await asyncio.sleep(0.8)
                await asyncio.to_thread(two.rise)
                before = two.asked.total()
                found = await asking
                assert two.asked.total() > before + 10
                return found

            assert texts(asyncio.run(scenario())) == {"yes"}

    @pytest.mark.parametrize(
        "bad",
        [
            error(401, "key expired"),
            error(404, "The model `m` does not exist", code="model_not_found"),
            error(400, "maximum context length is 10 tokens"),
            error(429, headers={"Retry-After": "30"}),
            error(500),
            Answer(body="<html>Log in</html>"),
            Answer("yes", latency=60),
            Answer("yes", manner="reset"),
        ],
        ids=["401", "404", "400", "429", "500", "HTML", "hang", "reset"],
    )
    @pytest.mark.parametrize("good_for", [0, 5])
    def test_one_that_is_of_no_use_costs_no_reply(self, bad: Answer, good_for: int) -> None:
        turns = itertools.count()

        def handler(_: dict[str, Any]) -> str | Answer:
            return "yes" if next(turns) < good_for else bad

        with ReplyServer(lambda _: "yes", latency=0.005) as one, ReplyServer(handler) as two:
            found = asyncio.run(asyncio.wait_for(ask(client(one, two, timeout=0.5, concurrency=8), *calls(40, 2)), 30))
        assert texts(found) == {"yes"}

    def test_one_that_comes_up_late_works_too(self) -> None:
        with ReplyServer(lambda _: "yes", latency=0.05) as one, ReplyServer(lambda _: "yes", latency=0.05) as two:
            two.die()

            async def scenario() -> list[Reply | BaseException]:
                asking = asyncio.create_task(ask(client(one, two, concurrency=4), *calls(160, 4)))
                await asyncio.sleep(1.5)
                await asyncio.to_thread(two.rise)
                return await asking

            assert texts(asyncio.run(scenario())) == {"yes"}
            assert two.asked.total() > 10

    def test_no_server_at_all_stops_within_seconds(self) -> None:
        urls = ["http://127.0.0.1:9/v1", "http://127.0.0.1:13/v1"]
        asked = VLLMClient("gpu", VLLMClientSettings(kind="vllm", base_url=urls), print)
        found = asyncio.run(asyncio.wait_for(ask(asked, *calls(20, 2)), 20))
        assert all(isinstance(one, RunStopped) for one in found)

    def test_a_wrong_address_among_right_ones_is_left_alone(self) -> None:
        said: list[str] = []
        with ReplyServer(lambda _: "yes", latency=0.01) as server:
            urls = [server.url, "http://127.0.0.1:9/v1"]
            asked = VLLMClient("gpu", VLLMClientSettings(kind="vllm", base_url=urls), said.append)
            assert texts(asyncio.run(ask(asked, *calls(60, 2)))) == {"yes"}
        assert any("127.0.0.1:9/v1/chat/completions is" in words for words in said)

    def test_a_mistake_that_all_share_stops_the_run(self) -> None:
        wrong = error(404, "The model `m` does not exist", code="model_not_found")
        with ReplyServer(lambda _: wrong) as one, ReplyServer(lambda _: wrong) as two:
            found = asyncio.run(ask(client(one, two), *calls(3, 1)))
        assert all(isinstance(one, RunStopped) and "does not exist" in str(one) for one in found)

    def test_are_never_given_the_key_of_openai(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-not-for-you-1234")
        monkeypatch.setenv("GPU_KEY", "sk-mine")
        with ReplyServer(lambda _: "yes", keep=True) as server:
            asyncio.run(ask(client(server), (request("a"), "")))
            asyncio.run(ask(client(server, api_key_env="GPU_KEY"), (request("b"), "")))
        assert [headers.get("Authorization") for headers in server.headers] == [None, "Bearer sk-mine"]

    def test_tell_their_version_and_how_they_are_doing(self) -> None:
        with PosingAsVLLM(lambda _: "yes", latency=0.2) as server:
            asked = client(server, server)
            (found,) = asyncio.run(ask(asked, (request("a"), "")))
        assert isinstance(found, Reply)
        assert found.engine == "vllm 0.32.0"
        assert asked.pulse() == "3 running, 1 waiting, 75% of prompt tokens cached"

    def test_that_tell_nothing_are_asked_all_the_same(self) -> None:
        with ReplyServer(lambda _: Answer("yes", latency=0.1)) as server:
            asked = client(server)
            (found,) = asyncio.run(ask(asked, (request("a"), "")))
        assert isinstance(found, Reply)
        assert (found.engine, asked.pulse()) == ("", "")


class TestSettings:
    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ({}, "set base_url for servers that run, or model for an engine"),
            ({"base_url": "http://a/v1", "model": "m"}, "not both"),
            ({"base_url": []}, "base_url is empty"),
            ({"base_url": "http://a/v1", "dtype": "half"}, "dtype means nothing to servers that run already"),
            ({"model": "m", "timeout": 5}, "timeout means nothing to an engine that is started here"),
            ({"model": "m", "engine_args": {"dtype": "half"}}, "engine_args may not set dtype"),
            ({"model": "m", "engine_args": {"hf_token": "x"}}, "name it in the environment"),
            ({"model": "m", "tensor_parallel": 2}, "did you mean 'tensor_parallel_size'"),
        ],
    )
    def test_that_mean_nothing_are_refused(self, given: dict[str, Any], says: str) -> None:
        with pytest.raises(ValidationError, match=says):
            config("unused", clients={"local": {"kind": "vllm", **given}})

    def test_a_context_beyond_the_engines_is_refused(self) -> None:
        judge = {"prompt": "graded", "model": "m", "client": "local"}
        with pytest.raises(ValidationError, match="its context of 128,000 tokens is more than max_model_len 8,192"):
            config(
                "unused",
                clients={"local": {"kind": "vllm", "model": "m", "max_model_len": 8192}},
                cascade=[{"name": "only", "judge": judge}],
                policy={"relabel": ["3"]},
            )

    def test_what_new_servers_ignore_is_refused(self) -> None:
        judge = {"prompt": "graded", "model": "m", "client": "local", "extra_body": {"guided_json": {}}}
        with pytest.raises(ValidationError, match="vLLM ignores guided_json since"):
            config(
                "unused",
                clients={"local": {"kind": "vllm", "base_url": "http://a/v1"}},
                cascade=[{"name": "only", "judge": judge}],
                policy={"relabel": ["3"]},
            )


STAND_IN = """#!{python}
import json, os, sys
for number, line in enumerate(sys.stdin):
    if number == 0:
        print({first}, flush=True)
    elif number > 2:
        print({then}, flush=True)
        os._exit(1)
    else:
        body = {{"choices": [{{"message": {{"content": "yes"}}, "finish_reason": "stop"}}]}}
        print(json.dumps({{"id": json.loads(line)["id"], "status": 200, "body": body}}), flush=True)
"""
READY = """'{"facts": {"vllm": "1.0"}}'"""


class TestEngine:
    @pytest.mark.parametrize(
        ("first", "then", "says"),
        [
            (READY, "'{'", "the engine has broken off, or does not answer as it should. Its log is"),
            (READY, "'[]'", "the engine has broken off"),
            (READY, "'x' * (65 << 20)", "the engine has broken off"),
            (READY, "''", "the engine has broken off"),
            ("'Welcome'", "''", "does not run the engine as it should"),
            ("'[1]'", "''", "does not run the engine as it should|did not start"),
            ("""'{"failed": "no GPU."}'""", "''", "no GPU. Its log is"),
        ],
    )
    def test_that_breaks_off_stops_the_run_and_keeps_what_was_answered(
        self, first: str, then: str, says: str, tmp_path: Path
    ) -> None:
        python = tmp_path / "python"
        python.write_text(STAND_IN.format(python=sys.executable, first=first, then=then), encoding="utf-8")
        python.chmod(0o755)
        settings = VLLMClientSettings(kind="vllm", model="m", python=str(python))
        asked = make_client("gpu", settings, print, tmp_path)

        found = asyncio.run(asyncio.wait_for(ask(asked, *calls(5, 1)), 30))
        assert sum(isinstance(one, Reply) for one in found) == (2 if first == READY else 0)
        stopped = [str(one) for one in found if isinstance(one, RunStopped)]
        assert stopped
        assert re.search(says, stopped[0])

    @pytest.mark.parametrize(
        ("python", "says"),
        [
            (sys.executable, r"has no vLLM: pip install 'relabel\[vllm\]', or name a Python that has it"),
            ("/nowhere/python", "/nowhere/python cannot be started: No such file"),
        ],
    )
    def test_that_cannot_start_stops_the_run_and_says_why(self, python: str, says: str, tmp_path: Path) -> None:
        said: list[str] = []
        asked = make_client("gpu", VLLMClientSettings(kind="vllm", model="m", python=python), said.append, tmp_path)
        assert isinstance(asked, EngineClient)

        found = asyncio.run(ask(asked, *calls(5, 1)))
        assert all(isinstance(one, RunStopped) for one in found)
        with pytest.raises(RunStopped, match=says):
            raise next(one for one in found if isinstance(one, RunStopped))
        assert len(said) == 1
