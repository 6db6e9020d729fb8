"""An abstention is asked again as often as the settings say, and a chain once made longer is read to its end."""

from __future__ import annotations

from typing import Any

import pytest

from relabel.testing import Answer, ReplyServer, rlhn_reply
from tests.conftest import tevatron
from tests.test_engine import NOTHING, WriteJsonl, start


def chain(server: ReplyServer) -> list[tuple[Any, Any, Any]]:
    return [(body.get("seed"), body.get("temperature"), body.get("max_tokens")) for body in server.bodies]


@pytest.mark.parametrize(
    ("reply", "judge", "sent"),
    [
        (NOTHING, {}, [(None, 0.0, 4096)]),
        ("gibberish", {}, [(None, 0.0, 4096), (1, 0.5, 4096)]),
        ("gibberish", {"retries": 0}, [(None, 0.0, 4096)]),
        ("gibberish", {"retries": 2, "seed": 7}, [(7, 0.0, 4096), (8, 0.5, 4096), (9, 0.5, 4096)]),
        (Answer(NOTHING, "length"), {}, [(None, 0.0, 4096)]),
        (Answer(NOTHING, "length"), {"retry_max_tokens": 4096}, [(None, 0.0, 4096)]),
        (Answer(NOTHING, "length"), {"retry_max_tokens": 8192}, [(None, 0.0, 4096), (1, 0.5, 8192)]),
        (Answer(status=400, body={"error": {"code": "content_filter"}}), {}, [(None, 0.0, 4096)]),
    ],
)
def test_an_abstention_is_asked_again_in_other_words_for_the_server(
    reply: str | Answer, judge: dict[str, Any], sent: list[Any], write_jsonl: WriteJsonl
) -> None:
    path = write_jsonl([tevatron(1)])
    with ReplyServer(lambda _: reply, keep=True) as server:
        for _ in range(3):
            assert start(path, server.url, judge=judge).report is not None
    assert chain(server) == sent


def test_only_a_larger_setting_makes_the_chain_longer(write_jsonl: WriteJsonl) -> None:
    path = write_jsonl([tevatron(1)])
    with ReplyServer(lambda _: "gibberish") as server:
        for retries, asked in [(1, 2), (1, 2), (2, 3), (1, 3), (0, 3), (3, 4)]:
            start(path, server.url, judge={"retries": retries})
            assert server.asked.total() == asked


@pytest.mark.parametrize(
    ("reply", "retry", "other", "first"),
    [
        ("gibberish", "abstained", "refused", 2),
        (Answer(status=400, body={"error": {"code": "content_filter"}}), "refused", "abstained", 1),
    ],
)
def test_insisting_sends_one_more_each_time_and_is_remembered(
    reply: str | Answer, retry: Any, other: Any, first: int, write_jsonl: WriteJsonl
) -> None:
    path = write_jsonl([tevatron(1)])
    current: list[str | Answer] = [reply]
    with ReplyServer(lambda _: current[0]) as server:
        start(path, server.url)
        for asked in (first + 1, first + 2):
            start(path, server.url, retry=frozenset({retry}))
            start(path, server.url, retry=frozenset({other}))
            start(path, server.url)
            assert server.asked.total() == asked
        current[0] = rlhn_reply(better=[1])
        start(path, server.url, retry=frozenset({retry}))
        summary = start(path, server.url)
        start(path, server.url, retry=frozenset({retry}))
    assert server.asked.total() == first + 3
    assert summary.report is not None
    assert summary.report["candidates"]["relabel"] == 1
