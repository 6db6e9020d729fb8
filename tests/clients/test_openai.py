"""The client speaks as the `openai` package does, and learns what a model does not take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion

from relabel.clients.openai import OpenAIClient
from relabel.errors import ConfigError, RunStopped
from relabel.records import Reply, Request, Usage
from relabel.settings import OpenAIClientSettings
from relabel.testing import Answer, Handler, ReplyServer, completion
from tests.clients.shared import ask, client, error, replies, reply, request

MESSAGES = ({"role": "system", "content": "Judge."}, {"role": "user", "content": "Ünïcode “quotes” \n 问题"})
SAMPLING = {"temperature": 0.0, "top_p": 0.9, "max_tokens": 64, "seed": 7}


class TestAddress:
    def test_posts_what_the_openai_package_would(self) -> None:
        async def theirs(url: str) -> None:
            async with openai.AsyncOpenAI(base_url=url, api_key="sk-1") as package:
                await package.chat.completions.create(model="m", messages=list(MESSAGES), **SAMPLING)  # type: ignore

        with ReplyServer(lambda _: "yes", keep=True) as server, pytest.MonkeyPatch.context() as env:
            env.setenv("OPENAI_API_KEY", "sk-1")
            reply(server.url, Request("m", MESSAGES, SAMPLING))
            asyncio.run(theirs(server.url))
        assert server.bodies[0] == server.bodies[1]
        assert server.paths[0] == server.paths[1]
        ours, package = ({k.lower(): v for k, v in headers.items()} for headers in server.headers)
        for name in ("authorization", "content-type", "accept"):
            assert ours[name] == package[name]

    def test_posts_to_azure_what_the_openai_package_would(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AZURE_OPENAI_API_KEY", "az-1")

        async def theirs(url: str) -> None:
            async with openai.AsyncAzureOpenAI(azure_endpoint=url, api_version="2024-10-21", api_key="az-1") as azure:
                await azure.chat.completions.create(model="my gpt", messages=list(MESSAGES), **SAMPLING)  # type: ignore

        with ReplyServer(lambda _: "yes", keep=True) as server:
            azure = client(azure_endpoint=server.azure_endpoint, api_version="2024-10-21")
            (found,) = asyncio.run(ask(azure, Request("my gpt", MESSAGES, SAMPLING)))
            asyncio.run(theirs(server.azure_endpoint))
        assert isinstance(found, Reply)
        assert server.bodies[0] == server.bodies[1]
        assert server.paths == ["/openai/deployments/my%20gpt/chat/completions?api-version=2024-10-21"] * 2
        assert [headers.get("api-key") for headers in server.headers] == ["az-1"] * 2

    def test_the_environment_names_server_and_key_each_on_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with ReplyServer(lambda _: "yes", keep=True) as server:
            monkeypatch.setenv("OPENAI_BASE_URL", server.url)
            asyncio.run(ask(client(), request()))
            monkeypatch.setenv("OPENAI_API_KEY", "sk-env")
            asyncio.run(ask(client(), request()))
            monkeypatch.delenv("OPENAI_BASE_URL")
            asyncio.run(ask(client(server.url), request()))
        assert [headers.get("Authorization") for headers in server.headers] == [None, "Bearer sk-env", "Bearer sk-env"]
        assert client().endpoint == "https://api.openai.com/v1/chat/completions"

    def test_the_config_wins_over_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "sk-env")
        monkeypatch.setenv("MY_KEY", " sk-mine\n")
        with ReplyServer(lambda _: "yes", keep=True) as server:
            reply(server.url, api_key_env="MY_KEY")
        assert server.headers[0]["Authorization"] == "Bearer sk-mine"

    @pytest.mark.parametrize(
        ("settings", "names"),
        [
            ({"base_url": "http://localhost/v1", "api_key_env": "NO_SUCH_KEY"}, "NO_SUCH_KEY"),
            ({}, "OPENAI_API_KEY"),
            ({"base_url": "https://api.openai.com/v1/"}, "OPENAI_API_KEY"),
            ({"base_url": "localhost:8000/v1"}, "http://"),
            ({"base_url": "http://"}, "http://"),
            ({"base_url": "http://[oops/v1"}, "http://"),
            ({"base_url": "http://localhost/v1", "api_key_env": "BAD_KEY"}, "BAD_KEY"),
            ({"azure_endpoint": "https://x.openai.azure.com", "api_version": "1"}, "AZURE_OPENAI_API_KEY"),
        ],
    )
    def test_what_cannot_work_is_said_before_anything_is_sent(
        self, settings: dict[str, Any], names: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("BAD_KEY", "sk-\u201cquoted\u201d")
        with pytest.raises(ConfigError, match=names):
            OpenAIClient("local", OpenAIClientSettings(kind="openai", **settings), print)

    def test_an_endpoint_shows_no_credentials(self) -> None:
        assert client("http://me:pw@host/v1?token=1").endpoint == "http://host/v1"


class TestReply:
    def test_every_field_is_what_the_openai_package_reads(self) -> None:
        usage = {"prompt_tokens": 100, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 64}}
        answer = Answer(
            "so be it",
            "length",
            message={"refusal": "not that", "reasoning_content": "hm"},
            usage=usage,
            extra={"model": "m-2024", "system_fingerprint": "fp_1"},
        )
        found = ChatCompletion.model_validate(completion({"model": "m", "messages": []}, answer))
        with ReplyServer(lambda _: answer) as server:
            ours = reply(server.url)
        message, tokens = found.choices[0].message, found.usage
        assert tokens is not None
        assert tokens.prompt_tokens_details is not None
        assert ours == Reply(
            "ok",
            message.content or "",
            found.choices[0].finish_reason,
            message.refusal,
            "hm",
            model=found.model,
            fingerprint=found.system_fingerprint,
            usage=Usage(
                tokens.prompt_tokens, tokens.prompt_tokens_details.cached_tokens or 0, tokens.completion_tokens
            ),
            seconds=ours.seconds,
        )
        assert 0 < ours.seconds < 10

    @pytest.mark.parametrize(
        ("content", "text"),
        [
            (None, ""),
            ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab"),
            ([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "b"}], "b"),
            ([None, {"text": None}], ""),
            (7, ""),
        ],
    )
    def test_content_comes_as_text_in_parts_or_not_at_all(self, content: Any, text: str) -> None:
        with ReplyServer(lambda _: Answer(message={"content": content})) as server:
            assert reply(server.url).text == text

    @pytest.mark.parametrize(
        "usage",
        [
            {"prompt_tokens": None, "completion_tokens": "many", "prompt_tokens_details": None},
            {"prompt_tokens": -5, "completion_tokens": 1 << 62, "prompt_tokens_details": {"cached_tokens": 10}},
        ],
    )
    def test_nonsense_tokens_count_nothing(self, usage: dict[str, Any]) -> None:
        with ReplyServer(lambda _: Answer("yes", usage=usage)) as server:
            assert reply(server.url).usage == Usage()

    def test_tokens_are_counted_in_whatever_type_they_come(self) -> None:
        with ReplyServer(lambda _: Answer("yes", usage={"prompt_tokens": 12.0, "completion_tokens": "3"})) as server:
            assert reply(server.url).usage == Usage(12, 0, 3)

    def test_half_a_surrogate_pair_does_not_cost_the_reply(self) -> None:
        body = '{"choices": [{"message": {"content": "a\\ud83db \\ud83d\\ude00"}, "finish_reason": "stop"}]}'
        with ReplyServer(lambda _: Answer(body=body)) as server:
            assert reply(server.url).text == "a\ufffdb \U0001f600"

    @pytest.mark.parametrize("code", ["context_length_exceeded", "content_filter"])
    def test_a_refused_request_is_a_reply_too(self, code: str) -> None:
        with ReplyServer(lambda _: error(400, "too long", code=code)) as server:
            found = reply(server.url)
        assert (found.status, found.text, found.error) == ("refused", "", f"{code}: too long")
        assert server.asked.total() == 1


def picky(*refused: str, style: Callable[[str], Answer]) -> Handler:
    """Refuses these parameters, one at a time."""

    def handler(body: dict[str, Any]) -> str | Answer:
        return next((style(name) for name in refused if name in body), "yes")

    return handler


def openai_style(name: str) -> Answer:
    return error(400, f"Unsupported parameter: '{name}'", code="unsupported_parameter", param=name)


def fastapi_style(name: str) -> Answer:
    fault = {"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted", "input": 1}
    return Answer(status=422, body={"detail": [fault]})


class TestDialect:
    @pytest.mark.parametrize("style", [openai_style, fastapi_style])
    @pytest.mark.parametrize(
        ("refused", "dialect", "left"),
        [
            (["max_tokens"], "max_tokens=max_completion_tokens", {"max_completion_tokens", "temperature", "seed"}),
            (["temperature"], "-temperature", {"max_tokens", "seed"}),
            (["seed", "temperature"], "-seed -temperature", {"max_tokens"}),
            (
                ["max_tokens", "seed"],
                "max_tokens=max_completion_tokens -seed",
                {"max_completion_tokens", "temperature"},
            ),
            (["max_tokens", "max_completion_tokens"], "-max_tokens", {"temperature", "seed"}),
        ],
    )
    def test_what_a_model_refuses_is_learnt_once_and_recorded(
        self, refused: list[str], dialect: str, left: set[str], style: Callable[[str], Answer]
    ) -> None:
        told: list[str] = []
        asked = [request(str(n), max_tokens=9, temperature=0.0, seed=1) for n in range(20)]
        keys = [one.key for one in asked]
        with ReplyServer(picky(*refused, style=style), keep=True) as server:
            found = replies(server.url, asked, say=told.append)
        assert server.asked.total() == 20 + len(refused)
        assert len(told) == len(refused)
        assert {one.dialect for one in found} == {dialect}
        assert all(body.keys() == {"model", "messages", *left} for body in server.bodies[len(refused) :])
        assert [one.key for one in asked] == keys

    def test_one_model_says_nothing_of_another(self) -> None:
        def handler(body: dict[str, Any]) -> str | Answer:
            return openai_style("seed") if body["model"] == "picky" and "seed" in body else "yes"

        with ReplyServer(handler) as server:
            found = replies(server.url, [request(model="picky", seed=1), request(model="easy", seed=1)])
        assert [one.dialect for one in found] == ["-seed", ""]

    def test_what_the_config_adds_is_never_left_out_silently(self) -> None:
        with ReplyServer(picky("top_k", style=openai_style)) as server:
            found = asyncio.run(ask(client(server.url), *(request(str(n), top_k=n) for n in range(9))))
        assert all(isinstance(one, RunStopped) and "extra_body" in str(one) for one in found)
        assert server.asked.total() == 1
