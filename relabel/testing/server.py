"""An OpenAI-compatible server on loopback."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web


@dataclass(frozen=True, slots=True)
class Answer:
    """What a ReplyServer sends back: a completion's text, or with another status an error's body.

    `message`, `usage` and `extra` add to the parts of the completion, `logprobs` are those of its tokens. A `cut`
    answer breaks off amid its body.
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
    logprobs: Sequence[Mapping[str, Any]] | None = None
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
                "logprobs": None if answer.logprobs is None else {"content": list(answer.logprobs), "refusal": None},
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
