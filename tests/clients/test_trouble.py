"""Servers fail, ask to wait and refuse; what can be answered is, and what cannot costs no more than it must."""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest

from relabel.clients import openai as module
from relabel.clients import server as server_module
from relabel.clients.errors import Again
from relabel.errors import ConfigError, RunStopped, Unanswered
from relabel.records import Reply
from relabel.testing import Answer, ReplyServer
from tests.clients.shared import ask, client, error, failure, in_turn, replies, reply, request, scripted

KEY = "sk-se/cret+0123456789"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_WAIT", 0.002)
    monkeypatch.setattr(module, "_REFUSALS", (0.002, 0.01))


TROUBLE = {
    "429": error(429),
    "429 with Retry-After": error(429, headers={"Retry-After": "0.01"}),
    "429 with a date": error(429, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
    "429 with milliseconds": error(429, headers={"retry-after-ms": "5"}),
    "500": error(500),
    "502": Answer(status=502, body="<html>Bad Gateway</html>"),
    "503": error(503, headers={"Retry-After": "0"}),
    "529": error(529),
    "cut": Answer("yes" * 1000, manner="cut"),
    "slow": Answer("yes", latency=0.6),
    "HTML": Answer(body="<html>Welcome</html>"),
    "no choices": Answer(body={"choices": []}),
    "null choices": Answer(body={"choices": None}),
    "an error with status 200": Answer(body={"error": {"message": "overloaded"}}),
    "not JSON": Answer(body='{"choices": ['),
    "empty": Answer(body=""),
}


class TestTrouble:
    @pytest.mark.parametrize("trouble", TROUBLE.values(), ids=TROUBLE.keys())
    def test_is_borne_until_it_passes(self, trouble: Answer) -> None:
        with ReplyServer(scripted(trouble, trouble, "yes")) as server:
            assert reply(server.url, timeout=0.3).text == "yes"
        assert server.asked.total() == 3

    @pytest.mark.parametrize("trouble", TROUBLE.values(), ids=TROUBLE.keys())
    def test_is_given_up_after_max_attempts(self, trouble: Answer) -> None:
        """Four refusals of too many requests count as one: they are not the request's fault."""
        with ReplyServer(scripted("yes", trouble)) as server:
            _, found = asyncio.run(in_turn(client(server.url, timeout=0.2, max_attempts=2), request("a"), request("b")))
        attempts = 8 if trouble.status == 429 else 2
        assert isinstance(found, Unanswered)
        assert f"{attempts} attempts" in str(found)
        assert server.asked.total() == 1 + attempts

    @pytest.mark.parametrize("trouble", ["HTML", "no choices", "not JSON", "empty"])
    def test_what_was_never_a_chat_completions_api_stops_the_run(self, trouble: str) -> None:
        with ReplyServer(scripted(TROUBLE[trouble])) as server:
            found = failure(server.url)
        assert isinstance(found, RunStopped)
        assert "base_url" in str(found)
        assert server.asked.total() == 3

    def test_a_request_too_large_for_its_minute_is_refused_at_once(self) -> None:
        with ReplyServer(lambda _: error(429, "Request too large for m: Limit 30000, Requested 45000")) as server:
            assert reply(server.url).status == "refused"

    @pytest.mark.parametrize("attempt", range(1, 10))
    def test_waits_grow_and_are_jittered(self, attempt: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_FIRST_WAIT", 1.0)
        tries, fault = module._Tries(), Again("no")
        for _ in range(attempt):
            tries.add(fault)
        longest = min(60, 2 ** (attempt - 1))
        pauses = [tries.pause(fault) for _ in range(50)]
        assert longest / 2 <= min(pauses) < max(pauses) <= longest

    def test_everybody_keeps_quiet_while_a_server_asks_for_it(self) -> None:
        arrivals: list[float] = []
        turns: Iterator[str | Answer] = iter(["yes", error(429, headers={"Retry-After": "0.5"})])

        def handler(_: dict[str, Any]) -> str | Answer:
            arrivals.append(time.monotonic())
            return next(turns, "yes")

        with ReplyServer(handler) as server:
            replies(server.url, [request(str(n)) for n in range(6)], concurrency=1)
        assert min(arrivals[2:]) - arrivals[1] >= 0.49

    def test_who_waits_for_another_attempt_is_in_nobodys_way(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_FIRST_WAIT", 0.5)
        order: list[str] = []

        def handler(body: dict[str, Any]) -> str | Answer:
            order.append(body["messages"][0]["content"])
            return error(500) if order.count("fails") == 1 and order[-1] == "fails" else "yes"

        with ReplyServer(handler) as server:
            replies(server.url, [request("first"), request("fails"), request("a"), request("b")], concurrency=1)
        assert order == ["first", "fails", "a", "b", "fails"]

    def test_a_server_that_comes_up_late_is_waited_for_once_it_was_heard(self) -> None:
        async def scenario() -> list[str]:
            with ReplyServer(lambda _: "yes") as server:
                asked = client(server.url)
                await asked.open()
                texts = [(await asked.send(request("a"))).text]
            waiting = asyncio.create_task(asked.send(request("b")))
            await asyncio.sleep(0.02)
            with ReplyServer(lambda _: "again", port=int(server.url.split(":")[2].split("/")[0])):
                texts.append((await waiting).text)
            await asked.close()
            return texts

        assert asyncio.run(scenario()) == ["yes", "again"]


class TestStop:
    @pytest.mark.parametrize(
        ("answer", "advice"),
        [
            (error(401, "bad key sk-secret", code="sk-secret"), "OPENAI_API_KEY"),
            (error(403, "sk-secret may not"), "account"),
            (error(404, "no model m; sk-secret"), "model"),
            (error(429, "sk-secret", code="insufficient_quota"), "account"),
        ],
    )
    def test_one_request_finds_out_what_would_fail_all_of_them(
        self, answer: Answer, advice: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
        with ReplyServer(lambda _: answer, latency=0.05) as server:
            found = asyncio.run(ask(client(server.url), *(request(str(n)) for n in range(100))))
        assert server.asked.total() == 1
        for one in found:
            assert isinstance(one, RunStopped)
            assert advice in str(one)
            assert server.url in str(one)
            assert "sk-secret" not in str(one)

    def test_a_slip_among_good_replies_does_not(self) -> None:
        slip = error(401, "who are you?")
        with ReplyServer(scripted("yes", slip, slip, "yes")) as server:
            found = asyncio.run(in_turn(client(server.url), request("a"), request("b")))
        assert [one.text for one in found if isinstance(one, Reply)] == ["yes", "yes"]
        with ReplyServer(scripted("yes", slip)) as server:
            _, stopped = asyncio.run(in_turn(client(server.url), request("a"), request("b")))
        assert isinstance(stopped, RunStopped)
        assert server.asked.total() == 4

    @pytest.mark.parametrize("told", [KEY, KEY.upper(), quote(KEY, safe=""), b64encode(KEY.encode()).decode()])
    def test_a_key_is_masked_wherever_a_server_repeats_it(self, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        message = {"content": f"a {told}", "refusal": told, "reasoning": told}
        repeats = Answer(message=message, finish_reason=told, extra={"model": told, "system_fingerprint": told})
        with ReplyServer(lambda _: repeats) as server:
            found = reply(server.url)
        assert told not in repr(found)
        assert found.text == "a ***"
        with ReplyServer(lambda _: error(400, f"no {told}", code=told)) as server:
            assert told not in repr(reply(server.url))

    def test_a_key_in_a_reply_that_is_none_is_not_repeated(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
        with ReplyServer(lambda _: Answer(body="<html>sk-secret</html>")) as server:
            found = failure(server.url, max_attempts=1)
        assert "***" in str(found)
        assert "sk-secret" not in str(found)

    def test_a_password_in_the_address_is_sent_in_the_place_of_a_key_and_never_shown(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
        with ReplyServer(lambda _: error(404, "http://me:hunter22@host: no model for hunter22"), keep=True) as server:
            found = failure(server.url.replace("://", "://me:hunter22@"))
        assert server.headers[0]["Authorization"] == "Basic bWU6aHVudGVyMjI="
        assert "hunter22" not in str(found)
        with pytest.raises(ConfigError, match="one of them"):
            client(server.url.replace("://", "://me:hunter22@"), api_key_env="OPENAI_API_KEY")

    def test_no_server_stops_within_seconds(self) -> None:
        started = time.monotonic()
        found = failure("http://127.0.0.1:9/v1")
        assert isinstance(found, RunStopped)
        assert "OPENAI_BASE_URL" in str(found)
        assert time.monotonic() - started < 5

    def test_a_server_that_speaks_no_tls_stops_too(self) -> None:
        with ReplyServer(lambda _: "yes") as server:
            assert isinstance(failure(server.url.replace("http", "https", 1)), RunStopped)

    def test_halting_gives_up_what_waits_and_keeps_what_is_under_way(self) -> None:
        async def scenario(url: str) -> list[Reply | BaseException]:
            asked = client(url, concurrency=2)
            await asked.open()
            await asked.send(request("first"))
            sent = asyncio.gather(*(asked.send(request(str(n))) for n in range(6)), return_exceptions=True)
            await asyncio.sleep(0.1)
            asked.halt()
            found = await sent
            await asked.close()
            return found

        with ReplyServer(lambda _: "yes", latency=0.3) as server:
            found = asyncio.run(scenario(server.url))
        assert [type(one) for one in found] == [Reply, Reply, *[RunStopped] * 4]
        assert server.asked.total() == 3

    def test_the_longest_wait_is_explained_and_ends_at_once_when_halted(self) -> None:
        told: list[str] = []

        async def scenario(url: str) -> None:
            asked = client(url, told.append)
            await asked.open()
            waiting = asyncio.create_task(asked.send(request()))
            await asyncio.sleep(0.1)
            asked.halt()
            with pytest.raises(RunStopped):
                await asyncio.wait_for(waiting, 1)
            await asked.close()

        with ReplyServer(lambda _: error(429, "daily limit", {"Retry-After": "3600"})) as server:
            asyncio.run(scenario(server.url))
        assert told == [f"{server.url}/chat/completions asks to wait 3600 s: status 429: daily limit"]


class TestLimits:
    @pytest.mark.parametrize("limit", [1, 3, 16])
    def test_concurrency_is_used_and_never_exceeded(self, limit: int) -> None:
        with ReplyServer(lambda _: "yes", latency=0.02) as server:
            replies(server.url, [request(str(n)) for n in range(5 * limit)], concurrency=limit)
        assert server.most_at_once == limit

    @staticmethod
    def spread(requests: int, **settings: Any) -> list[float]:
        """When requests arrive, in seconds after the first."""
        arrivals: list[float] = []

        async def handler(_: dict[str, Any]) -> str:
            arrivals.append(time.monotonic())
            return "yes"

        typed: Callable[[dict[str, Any]], Awaitable[str | Answer]] = handler
        with ReplyServer(typed) as server:
            replies(server.url, [request(str(n), max_tokens=1000) for n in range(requests)], **settings)
        return [at - arrivals[0] for at in arrivals]

    def test_requests_per_minute_are_kept(self) -> None:
        arrivals = self.spread(21, requests_per_minute=1200)
        assert 0.95 <= arrivals[-1] < 3
        assert all(arrivals[n + 10] - arrivals[n] > 0.4 for n in range(11))

    def test_tokens_per_minute_are_kept_even_by_requests_larger_than_a_burst(self) -> None:
        assert 0.95 <= self.spread(6, tokens_per_minute=5 * 1000 * 60)[-1] < 3

    def test_without_limits_nothing_waits(self) -> None:
        assert self.spread(50)[-1] < 1


class TestHostility:
    def test_half_a_surrogate_pair_in_an_error_is_a_refusal_like_any_other(self) -> None:
        body = '{"error": {"message": "too long: \\ud83d", "code": "context_length_exceeded"}}'
        with ReplyServer(lambda _: Answer(status=400, body=body)) as server:
            found = reply(server.url)
        assert found.status == "refused"
        assert (found.error or "").encode()

    def test_an_endless_body_is_not_read_to_its_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(server_module, "_LARGEST", 1 << 20)
        with ReplyServer(scripted("yes", Answer("a" * (2 << 20)), "no")) as server:
            found = asyncio.run(in_turn(client(server.url, max_attempts=2), request("a"), request("b")))
        assert [one.text for one in found if isinstance(one, Reply)] == ["yes", "no"]

    def test_an_error_that_is_nested_without_end_is_an_error_like_any_other(self) -> None:
        body = '{"error": {"message": ' + '{"a": ' * 990 + "1" + "}" * 992
        with ReplyServer(lambda _: Answer(status=400, body=body)) as server:
            assert reply(server.url).status == "refused"

    def test_a_redirect_is_not_followed(self) -> None:
        with ReplyServer(lambda _: "stolen") as thief:
            moved = Answer(status=307, headers={"Location": f"{thief.url}/chat/completions"}, body="")
            with ReplyServer(lambda _: moved) as server:
                assert isinstance(failure(server.url), RunStopped)
            assert thief.asked.total() == 0

    def test_moderation_of_one_request_does_not_stop_the_others(self) -> None:
        flagged = error(403, "your input was flagged")
        with ReplyServer(lambda body: flagged if body["messages"][0]["content"] == "bad" else "yes") as server:
            found = replies(server.url, [request("good"), request("bad"), request("fine")])
        assert [one.status for one in found] == ["ok", "refused", "ok"]
