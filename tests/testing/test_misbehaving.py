"""A server that misbehaves as it is told: users try their set-ups against it, and so do we."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
import urllib.request
from typing import Any

import aiohttp
import pytest

from relabel.prompts import load_prompt
from relabel.records import Passage
from relabel.testing import FAULTS, LabelledJudge, MisbehavingServer
from relabel.testing.misbehaving import RetryAfter, too_many

OK = {"model": "m", "messages": [{"role": "user", "content": "how are you?"}]}
BROKEN = ("truncated", "malformed", "no-choices", "null", "length", "filter", "type", "portal", "drip", "twice")


def ask(url: str, *bodies: dict[str, Any], timeout: float = 5) -> list[tuple[int, str] | str]:
    """Status and text of each answer, or the name of the error, all asked at once."""

    async def one(session: aiohttp.ClientSession, body: dict[str, Any]) -> tuple[int, str] | str:
        try:
            async with session.post(f"{url}/chat/completions", json=body, allow_redirects=False) as answer:
                return answer.status, await answer.text()
        except (aiohttp.ClientError, TimeoutError) as fault:
            return type(fault).__name__

    async def everything() -> list[tuple[int, str] | str]:
        connector = aiohttp.TCPConnector(limit=0)
        limit = aiohttp.ClientTimeout(total=timeout)
        async with aiohttp.ClientSession(connector=connector, timeout=limit) as session:
            return await asyncio.gather(*(one(session, body) for body in bodies))

    return asyncio.run(everything())


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        *[(name, int(name[:3])) for name in FAULTS if name[:3].isdigit()],
        *[("timeout", "TimeoutError"), ("cut", "ClientPayloadError"), ("reset", "ClientPayloadError")],
        *[(name, 200) for name in BROKEN],
    ],
)
def test_every_fault_is_what_it_is_called(fault: str, expected: int | str) -> None:
    with MisbehavingServer(lambda _: "fine", faults={fault: 1.0}) as server:
        (found,) = ask(server.url, OK, timeout=1 if fault == "timeout" else 5)
        assert (found if isinstance(found, str) else found[0]) == expected
        assert server.gave == {fault: 1}
        assert fault == "timeout" or server.keys.total() == 1


def test_every_fault_is_tried() -> None:
    statuses = {name for name in FAULTS if name[:3].isdigit()}
    assert statuses | {"timeout", "cut", "reset", *BROKEN} == set(FAULTS)


@pytest.mark.parametrize(
    ("said", "header"), [("seconds", ("Retry-After", "2")), ("ms", ("retry-after-ms", "1500")), ("none", None)]
)
def test_when_to_come_back_is_said_in_every_form(said: RetryAfter, header: tuple[str, str] | None) -> None:
    assert list(too_many(said, 1.5).headers.items()) == ([header] if header else [])


def test_what_befalls_a_request_does_not_depend_on_the_others() -> None:
    bodies = [OK | {"seed": number} for number in range(60)]
    given = []
    for order in (bodies, bodies[::-1]):
        with MisbehavingServer(lambda _: "fine", faults={"500": 0.3, "429": 0.2}) as server:
            found = ask(server.url, *order)
        given.append({json.dumps(body): one[0] for body, one in zip(order, found, strict=True)})
    assert given[0] == given[1]
    assert set(given[0].values()) == {200, 429, 500}


def test_limits_are_kept() -> None:
    with MisbehavingServer(lambda _: "fine", per_second=10, burst=5, retry_after="ms") as server:
        assert sorted(one[0] for one in ask(server.url, *[OK] * 20)).count(200) == 5
        time.sleep(0.35)
        assert sorted(one[0] for one in ask(server.url, *[OK] * 20)).count(200) in (3, 4)
    with MisbehavingServer(lambda _: "fine", at_once=3, latency=0.2) as server:
        assert sorted(one[0] for one in ask(server.url, *[OK] * 10)) == [200] * 3 + [429] * 7
    with MisbehavingServer(lambda _: "fine", tokens_per_minute=60 * 12) as server:
        assert sorted(one[0] for one in ask(server.url, *[OK] * 6)) == [200] * 4 + [429] * 2


def test_a_server_that_grows_slower_is_slower_the_more_is_asked() -> None:
    with MisbehavingServer(lambda _: "fine", latency=0.05, slows=1) as server:
        began = time.monotonic()
        ask(server.url, *[OK] * 20)
        assert time.monotonic() - began > 0.5


def test_the_dead_rise_again() -> None:
    with MisbehavingServer(lambda _: "fine", dies_after=3, dead_for=0.5) as server:
        found = [ask(server.url, OK)[0] for _ in range(4)]
        assert found[:2] == [found[0]] * 2
        assert any(isinstance(one, str) for one in found[2:])
        time.sleep(1)
        assert ask(server.url, OK)[0][0] == 200


@pytest.mark.parametrize(
    "wrong", [{"faults": {"x": 0.1}}, {"faults": {"500": 0.7, "502": 0.7}}, {"retry_after": "later"}]
)
def test_what_it_cannot_do_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"there are|more than 1|expected one of"):
        MisbehavingServer(lambda _: "fine", **wrong)


def test_the_command_serves_every_prompt_and_tells_what_it_gave() -> None:
    command = [sys.executable, "-m", "relabel.testing", "--fault", "500=0.5", "--latency", "0"]
    messages = load_prompt("graded").messages("question-answering", "what?", [], [Passage("d", "", "that")])
    graded = {"model": "m", "messages": list(messages)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        found = ask(url, *[graded | {"seed": number} for number in range(20)])
        with urllib.request.urlopen(url.removesuffix("/v1") + "/counts") as told:
            counts = json.load(told)
        process.send_signal(signal.SIGINT)
        assert json.loads(process.stdout.read()) == counts
    right = [one[1] for one in found if one[0] == 200]
    assert counts["gave"] == {"ok": len(right), "500": 20 - len(right)}
    assert counts["requests"] == counts["different"] == 20
    assert all(json.loads(json.loads(text)["choices"][0]["message"]["content"]) == {"grade": 0} for text in right)


def test_what_is_no_prompt_of_ours_is_said_to_be_none() -> None:
    with MisbehavingServer(LabelledJudge({}, relevant=1)) as server:
        assert "no prompt in a known form" in str(ask(server.url, OK)[0][1])
