"""Ways to ask a server through the client, and ways for a server to answer."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from relabel.clients.openai import OpenAIClient
from relabel.errors import ClientError
from relabel.records import Reply, Request
from relabel.settings import OpenAIClientSettings
from relabel.testing import Answer, Handler


def request(text: str = "?", model: str = "m", **sampling: Any) -> Request:
    return Request(model, ({"role": "user", "content": text},), sampling)


def client(url: str | None = None, say: Callable[[str], None] = print, **settings: Any) -> OpenAIClient:
    return OpenAIClient("local", OpenAIClientSettings(kind="openai", base_url=url, **settings), say)


async def ask(asked: OpenAIClient, *requests: Request) -> list[Reply | BaseException]:
    await asked.open()
    try:
        return await asyncio.gather(*map(asked.send, requests), return_exceptions=True)
    finally:
        await asked.close()


async def in_turn(asked: OpenAIClient, *requests: Request) -> list[Reply | BaseException]:
    await asked.open()
    try:
        return [(await asyncio.gather(asked.send(one), return_exceptions=True))[0] for one in requests]
    finally:
        await asked.close()


def replies(url: str, requests: Sequence[Request], **settings: Any) -> list[Reply]:
    found = asyncio.run(ask(client(url, **settings), *requests))
    assert all(isinstance(one, Reply) for one in found), found
    return [one for one in found if isinstance(one, Reply)]


def reply(url: str, asked: Request | None = None, **settings: Any) -> Reply:
    return replies(url, [asked or request()], **settings)[0]


def failure(url: str, **settings: Any) -> ClientError:
    (found,) = asyncio.run(ask(client(url, **settings), request()))
    assert isinstance(found, ClientError)
    return found


def scripted(*answers: str | Answer) -> Handler:
    """Gives these answers in turn, the last one for ever."""
    turns: Iterator[str | Answer] = itertools.chain(answers, itertools.repeat(answers[-1]))
    return lambda _: next(turns)


def error(status: int, message: str = "no", headers: dict[str, str] | None = None, **fields: Any) -> Answer:
    return Answer(status=status, body={"error": {"message": message, **fields}}, headers=headers or {})
