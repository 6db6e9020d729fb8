"""An OpenAI-compatible server on loopback."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Literal, Self

import orjson
from aiohttp import web


@dataclass(frozen=True, slots=True)
class Answer:
    """What a ReplyServer sends back: a completion's text, or with another status an error's body.

    `message`, `usage` and `extra` add to the parts of the completion, `logprobs` are those of its tokens. Its `manner`:
    "cut" and "reset" break off amid the body, with a clean close and without; "drip" takes its `latency` to send the
    body byte by byte; "twice" sends the whole response two times.
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
    manner: Literal["whole", "cut", "reset", "drip", "twice"] = "whole"


Handler = Callable[[dict[str, Any]], "str | Answer | Awaitable[str | Answer]"]


class ReplyServer:
    """`with ReplyServer(handler) as server:` serves `server.url` from a thread of its own until the block ends.

    The handler is given each request's JSON body. `server.asked` counts requests by model, `server.keys` by the key
    that relabel sends along (or else by their body), `server.most_at_once` says how many it ever had at the same time;
    `server.bodies`, `.headers` and `.paths` are kept when `keep` is set.
    """

    def __init__(self, handler: Handler, *, latency: float = 0.0, keep: bool = False, port: int = 0) -> None:
        self.asked: Counter[str] = Counter()
        self.keys: Counter[str] = Counter()
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

    def __enter__(self) -> Self:
        self._broken: OSError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait(10)
        if self._broken is not None:  # the port is taken
            raise self._broken
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join(10)

    def die(self) -> None:
        """Break all connections and take no new ones, as if the process had been killed."""
        asyncio.run_coroutine_threadsafe(self._die(), self._loop).result(10)

    def rise(self) -> None:
        """Serve again, at the same address."""
        asyncio.run_coroutine_threadsafe(self._rise(), self._loop).result(10)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except OSError as fault:
            self._broken = fault
            self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._done = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=1 << 30)
        self.add_routes(app)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        await self._rise()
        self._ready.set()
        await self._done.wait()
        await self._runner.cleanup()

    def add_routes(self, app: web.Application) -> None:
        """Say which paths are served."""
        app.router.add_post("/v1/chat/completions", self._count)
        app.router.add_post("/openai/deployments/{model}/chat/completions", self._count)

    async def _rise(self) -> None:
        self._site = web.TCPSite(self._runner, "127.0.0.1", self._port, backlog=4096, reuse_address=True)
        await self._site.start()
        self._port = self._runner.addresses[0][1]

    async def _die(self) -> None:
        await self._site.stop()
        for connection in self._runner.server.connections if self._runner.server else ():
            if connection.transport is not None:
                connection.transport.abort()

    async def _count(self, request: web.Request) -> web.StreamResponse:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            return await self._answer(request)
        finally:
            self._at_once -= 1

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        content = await request.read()
        body = orjson.loads(content)
        self.asked[body["model"]] += 1
        self.keys[request.headers.get("X-Client-Request-Id") or blake2b(content, digest_size=16).hexdigest()] += 1
        if self._keep:
            self.bodies.append(body)
            self.headers.append(dict(request.headers))
            self.paths.append(request.path_qs)
        found = self._handler(body)
        answer = await found if inspect.isawaitable(found) else found
        if isinstance(answer, str):
            answer = Answer(answer)
        if answer.manner != "drip":
            await asyncio.sleep(answer.latency or self._latency)
        headers = {"Content-Type": "text/html" if isinstance(answer.body, str) else "application/json"}
        headers |= answer.headers
        if isinstance(answer.body, str):
            content = answer.body.encode()
        else:
            content = orjson.dumps(answer.body if answer.body is not None else completion(body, answer))
        if answer.manner != "whole":
            return await _oddly(request, answer, headers, content)
        return web.Response(body=content, status=answer.status, headers=headers)


async def _oddly(
    request: web.Request, answer: Answer, headers: Mapping[str, str], content: bytes
) -> web.StreamResponse:
    """Send a response in the manner that its answer asks for."""
    response = web.StreamResponse(status=answer.status, headers={**headers, "Content-Length": str(len(content))})
    await response.prepare(request)
    transport = request.transport
    if answer.manner in ("cut", "reset"):
        await response.write(content[: len(content) // 2])
        await asyncio.sleep(0.01)  # so that this much arrives
        if transport is not None:
            transport.close() if answer.manner == "cut" else transport.abort()
    elif answer.manner == "drip":
        for at in range(len(content)):
            await response.write(content[at : at + 1])
            await asyncio.sleep(answer.latency / len(content))
    else:
        await response.write(content)
        if transport is not None:
            lines = [f"HTTP/1.1 {answer.status} Again", *(f"{name}: {value}" for name, value in headers.items())]
            head = "\r\n".join([*lines, f"Content-Length: {len(content)}", "", ""])
            transport.write(head.encode() + content)
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
