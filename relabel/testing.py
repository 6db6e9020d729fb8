"""Fakes behind the same seams as the real things, for relabel's own tests and for yours.

ScriptedClient   answers in process, through a function of the request
ReplyServer      an OpenAI-compatible server on loopback that answers through a function of the request's body
rlhn_reply       the text of a reply to the rlhn prompt
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

from relabel.records import Reply, Request, Usage


def rlhn_reply(better: Iterable[int] = (), worse: Iterable[int] = ()) -> str:
    """A well-formed reply to the rlhn prompt, naming documents by their numbers."""
    lists = [", ".join(f"Doc ({number})" for number in numbers) for numbers in (better, worse)]
    return (
        "<thinking>\nEach document in turn.\n</thinking>\n<preference>\nEach relevant one.\n</preference>\n"
        f"<verdict>\n<better> Better than or equal to the ground truth: [{lists[0]}] </better>\n"
        f"<worse> Relevant, but worse than the ground truth: [{lists[1]}] </worse>\n</verdict>"
    )


class ScriptedClient:
    """Answers each request through `script`, which gives a text, a Reply, or raises a ClientError."""

    endpoint = "scripted"

    def __init__(self, script: Callable[[Request], str | Reply], concurrency: int = 64) -> None:
        self.concurrency = concurrency
        self.requests: list[Request] = []
        self._script = script

    async def open(self) -> None:
        """Nothing to get ready."""

    async def send(self, request: Request) -> Reply:
        """The script's answer; text becomes a finished reply."""
        self.requests.append(request)
        await asyncio.sleep(0)
        answer = self._script(request)
        if isinstance(answer, Reply):
            return answer
        size = sum(len(message["content"]) for message in request.messages)
        return Reply("ok", answer, "stop", model=request.model, usage=Usage(size // 4, 0, len(answer) // 4))

    def halt(self) -> None:
        """Nothing waits to be sent."""

    async def close(self) -> None:
        """Nothing to let go of."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a ReplyServer sends back: a completion's text, or with another status an error's body.

    `message`, `usage` and `extra` add to the parts of the completion. A `cut` answer breaks off amid its body.
    """

    text: str = ""
    finish_reason: str = "stop"
    status: int = 200
    body: Mapping[str, Any] | str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    latency: float = 0.0
    message: Mapping[str, Any] = field(default_factory=dict)
    usage: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    cut: bool = False


Handler = Callable[[dict[str, Any]], "str | Answer | Awaitable[str | Answer]"]


class ReplyServer:
    """`with ReplyServer(handler) as server:` serves `server.url` from a thread of its own until the block ends.

    The handler is given each request's JSON body. `server.asked` counts requests by model, `server.most_at_once` says
    how many it ever had at the same time; `server.bodies`, `.headers` and `.paths` are kept when `keep` is set.
    """

    def __init__(self, handler: Handler, *, latency: float = 0.0, keep: bool = False, port: int = 0) -> None:
        self.asked: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.most_at_once = 0
        self._at_once = 0
        self._handler = handler
        self._latency = latency
        self._keep = keep
        self._port = port
        self._ready = threading.Event()

    @property
    def url(self) -> str:
        """The base URL to give a client."""
        return f"{self.azure_endpoint}/v1"

    @property
    def azure_endpoint(self) -> str:
        """The same server, posing as one of Azure's."""
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> ReplyServer:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join(10)

    async def _serve(self) -> None:
        self._loop, self._done = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=1 << 30)
        app.router.add_post("/v1/chat/completions", self._count)
        app.router.add_post("/openai/deployments/{model}/chat/completions", self._count)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self._port, backlog=4096)
        await site.start()
        self._port = runner.addresses[0][1]
        self._ready.set()
        await self._done.wait()
        await runner.cleanup()

    async def _count(self, request: web.Request) -> web.StreamResponse:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            return await self._answer(request)
        finally:
            self._at_once -= 1

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        self.asked[body["model"]] += 1
        if self._keep:
            self.bodies.append(body)
            self.headers.append(dict(request.headers))
            self.paths.append(request.path_qs)
        found = self._handler(body)
        answer = await found if inspect.isawaitable(found) else found
        if isinstance(answer, str):
            answer = Answer(answer)
        await asyncio.sleep(answer.latency or self._latency)
        if isinstance(answer.body, str):
            return web.Response(text=answer.body, status=answer.status, headers=answer.headers)
        content = orjson.dumps(answer.body if answer.body is not None else completion(body, answer))
        if answer.cut:
            return await _break_off(request, content)
        return web.Response(body=content, status=answer.status, headers=answer.headers, content_type="application/json")


async def _break_off(request: web.Request, content: bytes) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": str(len(content))})
    await response.prepare(request)
    await response.write(content[: len(content) // 2])
    if request.transport is not None:
        request.transport.close()
    return response


def completion(body: Mapping[str, Any], answer: Answer) -> dict[str, Any]:
    """The chat completion that carries an answer, its tokens counted as a quarter of its letters."""
    prompt = sum(len(str(message["content"])) for message in body["messages"]) // 4
    tokens = len(answer.text) // 4
    return {
        "id": "chatcmpl-test",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": body["model"],
        "choices": [
            {
                "index": 0,
                "finish_reason": answer.finish_reason,
                "logprobs": None,
                "message": {"role": "assistant", "content": answer.text, "refusal": None, **answer.message},
            }
        ],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": tokens,
            "total_tokens": prompt + tokens,
            **answer.usage,
        },
        **answer.extra,
    }
