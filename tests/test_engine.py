"""A run sends what it must once, keeps what it has paid for, stops cleanly, and goes on where it stopped."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from relabel import engine
from relabel.asker import Asker, Progress, TierProgress
from relabel.cascade import Cascade
from relabel.clients import Desk, flow
from relabel.clients import openai as http
from relabel.config import BudgetSettings, Price
from relabel.costs import Prices
from relabel.engine import answer
from relabel.errors import InputError, LedgerError, RunStopped, Unanswered
from relabel.formats import Source
from relabel.judges import Retry
from relabel.ledger import Ledger
from relabel.limits import Budget, Stop
from relabel.records import Call, Instance, Quarantined, Reply, Request, Usage
from relabel.runs import Summary, run
from relabel.testing import Answer, Handler, ReplyServer, ScriptedClient, rlhn_reply
from tests.conftest import config, settings, tevatron

WriteJsonl = Callable[..., Path]
NOTHING = rlhn_reply()


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_FIRST_WAIT", 0.002)


def start(path: Path, url: str, retry: Retry = frozenset(), **changes: Any) -> Summary:
    """A run whose only tier is asked by default; `judge` and `local` change the judge's and the client's settings."""
    given = settings(path, url)
    given["output"] = {"dir": str(path.parent / "run")}
    given["cascade"] = [{"name": "only", "judge": {**given["cascade"][1]["judge"], **changes.pop("judge", {})}}]
    given["clients"]["local"] |= changes.pop("local", {})
    return run(engine_config(given | changes), retry=retry, say=lambda _: None)


def engine_config(given: dict[str, Any]) -> Any:
    return config(**{"path": given["input"]["path"], **{k: v for k, v in given.items() if k != "input"}})


def stored(path: Path) -> int:
    with Ledger(path.parent / "run") as ledger:
        return sum(one.replies for one in ledger.spent())


class TestSending:
    def test_what_is_asked_twice_is_sent_once(self, write_jsonl: WriteJsonl) -> None:
        path = write_jsonl([tevatron(1) | {"query_id": f"q{n}"} for n in range(10)])
        with ReplyServer(lambda _: NOTHING, latency=0.1) as server:
            summary = start(path, server.url)
        assert server.asked.total() == 1
        assert summary.progress.tiers["only"].done == 10
        assert summary.report is not None

    def test_what_the_ledger_holds_is_never_sent_again(self, write_jsonl: WriteJsonl) -> None:
        path = write_jsonl([tevatron(n) for n in range(5)])
        with ReplyServer(lambda _: NOTHING) as server:
            start(path, server.url)
            start(write_jsonl([tevatron(n) for n in range(6)]), server.url)
        assert server.asked.total() == 6

    def test_the_calls_of_one_query_are_sent_next_to_each_other(self, write_jsonl: WriteJsonl) -> None:
        path = write_jsonl([tevatron(n, negatives=5) for n in range(40)])
        with ReplyServer(lambda _: '{"grade": 1}', keep=True, latency=0.01) as server:
            given = settings(path, server.url)
            given["clients"]["local"]["concurrency"] = 8
            judge = {"prompt": "graded", "model": "m", "client": "local"}
            given |= {"cascade": [{"name": "only", "judge": judge}], "policy": {"relabel": [3]}}
            given["output"] = {"dir": str(path.parent / "run")}
            run(engine_config(given), say=lambda _: None)
        queries = [body["messages"][1]["content"].split("<query>\n")[1].split("\n")[0] for body in server.bodies]
        assert len(queries) == 200
        changes = sum(one != other for one, other in itertools.pairwise(queries))
        assert changes < 2 * 40  # each query's five calls in a row, but for what a connection's delay swaps

    def test_the_first_failure_is_shared_by_all_who_asked_the_same(self, write_jsonl: WriteJsonl) -> None:
        path = write_jsonl([tevatron(1) | {"query_id": f"q{n}"} for n in range(4)])
        with ReplyServer(lambda _: Answer(status=500), latency=0.05) as server:
            assert start(path, server.url).stopped
        assert server.asked.total() == 2

    def test_one_unanswered_request_leaves_the_run_incomplete_and_alone_is_sent_again(
        self, write_jsonl: WriteJsonl
    ) -> None:
        path = write_jsonl([tevatron(n) for n in range(8)])
        down = [True]

        def handler(body: dict[str, Any]) -> str | Answer:
            return Answer(status=500) if down[0] and "number 3?" in str(body) else NOTHING

        with ReplyServer(handler) as server:
            summary = start(path, server.url)
            assert (summary.report, summary.stopped) == (None, "some requests got no reply")
            assert summary.progress.tiers["only"].unanswered == 1
            assert not list((path.parent / "run").glob("cleaned*"))
            before, down[0] = server.asked.total(), False
            assert start(path, server.url).report is not None
        assert server.asked.total() == before + 1


class TestBudget:
    @pytest.mark.parametrize("concurrency", [1, 64])
    def test_requests_are_counted_over_all_restarts(self, concurrency: int, write_jsonl: WriteJsonl) -> None:
        path = write_jsonl([tevatron(n) for n in range(20)])
        local = {"concurrency": concurrency}
        with ReplyServer(lambda _: NOTHING, latency=0.002) as server:
            for limit, asked in [(7, 7), (7, 7), (12, 12), (12, 12), (20, 20)]:
                summary = start(path, server.url, local=local, budget={"requests": limit})
                assert server.asked.total() == stored(path) == asked
                assert (summary.report is None) == (asked < 20)
                assert "budget.requests" in summary.stopped or asked == 20

    @pytest.mark.parametrize("concurrency", [1, 64])
    def test_dollars_are_never_overspent_by_more_than_a_call(self, concurrency: int, write_jsonl: WriteJsonl) -> None:
        path = write_jsonl([tevatron(n) for n in range(40)])
        reply = Answer(NOTHING, usage={"prompt_tokens": 1000, "completion_tokens": 0}, latency=0.002)
        prices = {"large": {"prompt": 10, "completion": 10}}
        with ReplyServer(lambda _: reply) as server:
            for limit, asked in [(0.055, 6), (0.055, 6), (0.105, 11)]:
                local, budget = {"concurrency": concurrency}, {"usd": limit}
                summary = start(path, server.url, local=local, budget=budget, prices=prices)
                assert "budget.usd" in summary.stopped
                assert server.asked.total() == asked

    def test_what_waits_to_be_sent_when_the_money_is_spent_is_not(self, write_jsonl: WriteJsonl) -> None:
        path = write_jsonl([tevatron(n) for n in range(200)])
        costs = iter([100] * 60 + [5000] * 200)

        def handler(_: dict[str, Any]) -> Answer:
            return Answer(NOTHING, usage={"prompt_tokens": next(costs), "completion_tokens": 0}, latency=0.05)

        prices = {"large": {"prompt": 10, "completion": 10}}
        with ReplyServer(handler) as server:
            summary = start(path, server.url, local={"concurrency": 8}, budget={"usd": 0.2}, prices=prices)
            assert summary.goes_on_with == ("--set", "budget.usd=0.4")
            assert server.asked.total() <= 60 + 3 + 8

    def test_dollars_cannot_be_counted_where_tokens_are_not(self, write_jsonl: WriteJsonl) -> None:
        path = write_jsonl([tevatron(n) for n in range(50)])
        unknown = Answer(NOTHING, usage={"prompt_tokens": None, "completion_tokens": None, "total_tokens": None})
        prices = {"large": {"prompt": 10, "completion": 10}}
        with ReplyServer(lambda _: unknown) as server:
            summary = start(path, server.url, budget={"usd": 1}, prices=prices)
            assert "set budget.requests in its place" in summary.stopped
            assert server.asked.total() < 50

    def test_what_costs_nothing_is_not_held_up_by_a_budget(self, write_jsonl: WriteJsonl) -> None:
        path = write_jsonl([tevatron(n) for n in range(20)])
        with ReplyServer(lambda _: NOTHING, latency=0.02) as server:
            free = {"large": {"prompt": 0, "completion": 0}}
            assert start(path, server.url, budget={"usd": 0.01}, prices=free).report is not None
        assert server.most_at_once > 5

    def test_what_a_budget_admitted_is_answered_even_after_a_retry(self, write_jsonl: WriteJsonl) -> None:
        path = write_jsonl([tevatron(n) for n in range(9)])
        seen: Counter[str] = Counter()

        def handler(body: dict[str, Any]) -> str | Answer:
            seen[str(body)] += 1
            return Answer(status=503) if seen[str(body)] == 1 else NOTHING

        with ReplyServer(handler) as server:
            start(path, server.url, budget={"requests": 5})
        assert stored(path) == 5


class TestStop:
    def test_an_interrupt_sends_nothing_new_and_keeps_what_is_under_way(self, write_jsonl: WriteJsonl) -> None:
        path = write_jsonl([tevatron(n) for n in range(300)])
        number = itertools.count(1)

        def handler(_: dict[str, Any]) -> Answer:
            if next(number) == 20:
                os.kill(os.getpid(), signal.SIGINT)
            return Answer(NOTHING, latency=0.1)

        with ReplyServer(handler) as server:
            summary = start(path, server.url, local={"concurrency": 16})
            assert (summary.report, summary.stopped) == (None, "interrupted")
            assert 20 <= server.asked.total() == stored(path) < 60
            assert start(path, server.url).report is not None
        assert server.asked.total() == stored(path) == 300

    def test_a_second_interrupt_ends_at_once_and_frees_the_ledger(self, write_jsonl: WriteJsonl) -> None:
        path = write_jsonl([tevatron(n) for n in range(30)])
        number = itertools.count(1)

        def handler(_: dict[str, Any]) -> Answer:
            if (turn := next(number)) in (5, 6):
                os.kill(os.getpid(), signal.SIGINT if turn == 5 else signal.SIGTERM)
            return Answer(NOTHING, latency=0.0 if turn == 1 else 30)

        began = time.monotonic()
        with ReplyServer(handler) as server:
            assert start(path, server.url).stopped == "interrupted"
        assert time.monotonic() - began < 10
        assert stored(path) == 1
        Ledger(path.parent / "run", write=True).close()

    def test_an_unknown_model_stops_within_seconds_whatever_others_wait_for(self, write_jsonl: WriteJsonl) -> None:
        path = write_jsonl([tevatron(n) for n in range(50)])
        number = itertools.count(1)

        def handler(body: dict[str, Any]) -> str | Answer:
            if body["model"] == "large":
                return Answer(status=404, body={"error": {"message": "no such model"}}, latency=0.3)
            if next(number) == 10:
                return Answer(status=429, headers={"Retry-After": "3600"}, body={})
            return rlhn_reply(better=[1])

        began = time.monotonic()
        with ReplyServer(handler) as server:
            given = settings(path, server.url, output={"dir": str(path.parent / "run")})
            given["clients"]["other"] = given["clients"]["local"]
            given["cascade"][1]["judge"]["client"] = "other"
            with pytest.raises(RunStopped, match=r"no such model.*tier's model"):
                run(engine_config(given))
        assert time.monotonic() - began < 10
        assert server.asked["large"] == 1
        assert stored(path) >= 9

    @pytest.mark.parametrize("alive_for", [0, 5])
    def test_a_server_that_has_died_is_asked_now_and_then_and_given_up_in_the_end(
        self, alive_for: int, write_jsonl: WriteJsonl, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(flow, "_GIVE_UP_AFTER", (0.5, 1.0))
        monkeypatch.setattr(flow, "_KNOCKS", (0.1, 0.2))
        path = write_jsonl([tevatron(n) for n in range(300)])
        number = itertools.count(1)

        def handler(_: dict[str, Any]) -> str | Answer:
            return NOTHING if next(number) <= alive_for else Answer(status=500)

        with ReplyServer(handler) as server:
            with pytest.raises(RunStopped, match=r"status 500, and so it has been for .* s"):
                start(path, server.url, local={"concurrency": 4})
            assert server.asked.total() < 50
        assert stored(path) == alive_for


class ListSource:
    """A source of these records, which may end in an error."""

    format_name, suffix, needs_negatives = "list", ".jsonl", False

    def __init__(self, records: list[Instance | Quarantined], fault: Exception | None = None) -> None:
        self.records = records
        self.fault = fault
        self.given = 0

    def __iter__(self) -> Iterator[Instance | Quarantined]:
        for record in self.records:
            self.given += 1
            yield record
        if self.fault is not None:
            raise self.fault

    def fraction(self) -> float | None:
        return self.given / len(self.records)


class Direct:
    """The engine over a source and a scripted client, without a run around it."""

    def __init__(self, folder: Path, script: Callable[[Request], str | Reply], concurrency: int = 8) -> None:
        self.client = ScriptedClient(script, concurrency)
        self.stop = Stop()
        self.cascade = Cascade(config("unused"))
        self.progress = Progress({tier.name: TierProgress() for tier in self.cascade.tiers})
        self.ledger = Ledger(folder, write=True)
        self.noted: list[dict[str, Any]] = []

    def asker(self) -> Asker:
        def note(event: str, **fields: Any) -> None:
            self.noted.append({"event": event, **fields})

        clients = {"local": self.client}
        return Asker(self.ledger, clients, BudgetSettings(), Prices({}), self.progress, self.stop, note)

    def answer(self, source: ListSource, workers: int = 8) -> Progress:
        async def scenario() -> None:
            asker = self.asker()
            given = cast(Source, source)
            await answer(given, self.cascade, asker, self.progress, self.stop, workers=workers)

        with self.ledger:
            asyncio.run(scenario())
        return self.progress


def many(count: int) -> list[Instance | Quarantined]:
    from tests.conftest import instance

    return [instance(2, query=f"question {number}") for number in range(count)]


class TestDirect:
    def test_counts_what_was_done(self, tmp_path: Path) -> None:
        direct = Direct(tmp_path, lambda asked: rlhn_reply(better=[1]) if asked.model == "small" else "gibberish")
        progress = direct.answer(ListSource([*many(5), Quarantined(6, "no query", {})]))
        cheap, strong = progress.tiers["cheap"], progress.tiers["strong"]
        assert (progress.read, progress.instances, progress.quarantined, progress.fraction) == (5, 5, 1, 1.0)
        assert (cheap.sent, cheap.done, cheap.candidates, cheap.abstained, cheap.awaited) == (5, 5, 10, 0, 0)
        assert (strong.sent, strong.done, strong.candidates, strong.abstained) == (10, 10, 10, 10)

    def test_the_source_is_read_no_further_ahead_than_the_work_goes(self, tmp_path: Path) -> None:
        source = ListSource(many(500))
        furthest = 0

        def script(_: Request) -> str:
            nonlocal furthest
            furthest = max(furthest, source.given - len(direct.client.requests))
            return NOTHING

        direct = Direct(tmp_path, script)
        direct.answer(source)
        assert furthest <= 4 * engine._READ_AHEAD + 8

    def test_a_source_that_breaks_ends_the_run_as_the_error_it_is(self, tmp_path: Path) -> None:
        direct = Direct(tmp_path, lambda _: NOTHING)
        direct.answer(ListSource(many(40), InputError("train.jsonl.gz: ends in the middle")))
        assert isinstance(direct.stop.error, InputError)
        assert direct.client.requests

    @pytest.mark.parametrize("method", ["get", "store"])
    def test_a_ledger_that_breaks_ends_the_run_as_the_error_it_is(
        self, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: object) -> None:
            raise LedgerError("disk full")

        direct = Direct(tmp_path, lambda _: NOTHING)
        monkeypatch.setattr(direct.ledger, method, broken)
        direct.answer(ListSource(many(40)))
        assert isinstance(direct.stop.error, LedgerError)
        assert len(direct.client.requests) <= 8

    def test_reasons_for_unanswered_requests_are_counted(self, tmp_path: Path) -> None:
        def script(_: Request) -> str:
            raise Unanswered("status 500")

        direct = Direct(tmp_path, script)
        progress = direct.answer(ListSource(many(20)))
        assert progress.unanswered == {"status 500": 20}
        assert not direct.stop

    def test_requests_that_end_badly_are_noted_with_tier_and_key(self, tmp_path: Path) -> None:
        def script(asked: Request) -> str | Reply:
            if asked.model == "small":
                return Reply("refused", error="too long")
            raise Unanswered("status 500")

        direct = Direct(tmp_path, script)
        direct.answer(ListSource(many(1)))
        assert [(one["event"], one["tier"], one["reason"]) for one in direct.noted] == [
            ("refused", "cheap", "too long"),
            ("unanswered", "strong", "status 500"),
        ]
        assert {one["request"] for one in direct.noted} == {one.key for one in direct.client.requests}


class TestFuse:
    """Replies of no use stop a run before they cost it the whole budget."""

    @pytest.mark.parametrize("useless", [0.9, 1.0])
    def test_blows_when_nearly_all_replies_lead_to_abstentions(self, useless: float, tmp_path: Path) -> None:
        direct = Direct(tmp_path, lambda asked: "gibberish" if int(asked.key, 16) % 10 < 10 * useless else NOTHING)
        direct.answer(ListSource(many(600)))
        blown = useless > 0.95
        assert (len(direct.client.requests) < 600) == blown
        assert ("replies to tier 'cheap' led to nothing but abstentions, mostly: " in direct.stop.reason) == blown

    def test_is_not_kept_waiting_by_instances_with_many_calls(self, write_jsonl: WriteJsonl) -> None:
        path = write_jsonl([tevatron(n, negatives=10) for n in range(150)])
        judge = {"prompt": "graded"}
        with ReplyServer(lambda _: Answer("gibberish", latency=0.01)) as server:
            changes: dict[str, Any] = {"judge": judge, "policy": {"relabel": ["3"]}, "local": {"concurrency": 16}}
            summary = start(path, server.url, **changes)
            assert summary.goes_on_with == ("--retry", "abstained")
            assert server.asked.total() < 400  # each question twice, of 3,000

    def test_does_not_keep_a_run_from_its_end_when_all_is_answered(self, write_jsonl: WriteJsonl) -> None:
        path = write_jsonl([tevatron(n) for n in range(130)])
        with ReplyServer(lambda _: "gibberish") as server:
            local = {"concurrency": 1}
            stopped = start(path, server.url, local=local, judge={"retries": 0})
            assert "abstentions" in stopped.stopped
            asked = server.asked.total()
            assert asked < 130
            assert "abstentions" in start(path, server.url, local=local, judge={"retries": 0}).stopped
            assert server.asked.total() == asked
            going_on = start(path, server.url, local=local, judge={"retries": 0}, budget={"abstained": None})
            assert going_on.report is not None
            assert server.asked.total() == 130
            assert start(path, server.url, local=local, judge={"retries": 0}).report is not None


class PutsOff(ScriptedClient):
    """Answers nothing in a pass, and what `answers` lets it between two."""

    def __init__(self, script: Callable[[Request], str | Reply], answers: bool = True) -> None:
        super().__init__(script)
        self.off: dict[str, Call] = {}
        self.passes = 1
        self._answers = answers

    def puts_off(self, call: Call) -> bool:
        self.off[call.request.key] = call
        return True

    async def settle(self, desk: Desk) -> None:
        self.passes += 1
        for call in list(self.off.values()) if self._answers else ():
            if desk.admit(call):
                await desk.store(call, await self.send(call.request))
                del self.off[call.request.key]


class TestPasses:
    def passes(self, tmp_path: Path, client: PutsOff) -> Progress:
        direct = Direct(tmp_path, lambda _: NOTHING)
        direct.client = client
        return direct.answer(ListSource(many(5)))

    def test_go_on_until_nothing_is_put_off(self, tmp_path: Path) -> None:
        found = rlhn_reply(better=[1])
        client = PutsOff(lambda asked: found if asked.model == "small" or asked.sample else "gibberish")
        progress = self.passes(tmp_path, client)
        assert client.passes == 4  # the cheap judge, the strong one, the strong one again
        assert (progress.read, progress.instances) == (5, 5)
        counted = {name: (tier.replied, tier.from_ledger, tier.candidates) for name, tier in progress.tiers.items()}
        assert counted == {"cheap": (5, 0, 10), "strong": (10, 0, 10)}

    def test_end_where_no_reply_ever_comes(self, tmp_path: Path) -> None:
        direct = Direct(tmp_path, lambda _: NOTHING)
        direct.client = PutsOff(lambda _: NOTHING, answers=False)
        direct.answer(ListSource(many(5)))
        assert "brought no reply" in direct.stop.reason

    def test_that_are_cut_short_count_no_reply_twice(self, tmp_path: Path) -> None:
        direct = Direct(tmp_path, lambda _: NOTHING)
        answering = PutsOff(lambda _: rlhn_reply(better=[1]))
        direct.client = answering

        def in_its_place(call: Call) -> bool:
            if call.tier == "strong":
                direct.stop.request("enough")
            return PutsOff.puts_off(answering, call)

        answering.puts_off = in_its_place  # type: ignore[method-assign]
        progress = direct.answer(ListSource(many(5)))
        cheap = progress.tiers["cheap"]
        assert (cheap.replied, cheap.from_ledger) == (5, 0)
        assert cheap.done <= 5

    def test_stop_where_the_budget_ends(self) -> None:
        stop = Stop()
        budget = Budget(BudgetSettings(requests=2), Prices({}), [], stop)
        asked = Request("small", (), {})
        assert budget.admit_now(asked, sent=True)
        assert [budget.admit_now(asked), budget.admit_now(asked)] == [True, False]
        assert stop.goes_on_with == ("--set", "budget.requests=4")

    def test_costs_are_guessed_before_any_has_landed(self) -> None:
        stop = Stop()
        price = Price(prompt=1000, completion=0)
        budget = Budget(BudgetSettings(usd=0.35), Prices({"small": price}), [], stop)
        asked = Request("small", ({"role": "user", "content": "x" * 400},), {})  # about 100 tokens, so 0.1 US$
        assert [budget.admit_now(asked) for _ in range(5)] == [True, True, True, True, False]


def optional_call() -> Call:
    return Call(Request("small", (), {}), "cheap", "local", "p", optional=True)


def test_an_optional_call_is_never_sent(tmp_path: Path) -> None:
    direct = Direct(tmp_path, lambda _: NOTHING)

    async def scenario() -> Reply | None:
        return await direct.asker().ask(optional_call())

    with direct.ledger:
        assert asyncio.run(scenario()) is None
    assert direct.client.requests == []


def whimsical(latency: float) -> Handler:
    """Every kind of reply, each a function of what is asked; when it comes is chance."""

    def handler(body: dict[str, Any]) -> Answer:
        text = json.dumps(body, sort_keys=True)
        choice = hashlib.sha256(text.encode()).digest()[0]
        kinds = [
            Answer(NOTHING),
            Answer(rlhn_reply(better=[1])),
            Answer(rlhn_reply(worse=[2], better=[3])),
            Answer("gibberish"),
            Answer(rlhn_reply(), finish_reason="length"),
            Answer(status=400, body={"error": {"message": "filtered", "code": "content_filter"}}),
            Answer(rlhn_reply(better=[9])),
            Answer(rlhn_reply(better=[1, 2, 3])),
        ]
        return Answer(**{**vars_of(kinds[choice % 8]), "latency": random.uniform(0.0001, latency)})

    return handler


def vars_of(one: Answer) -> dict[str, Any]:
    return {name: getattr(one, name) for name in Answer.__slots__}


class TestDetermined:
    def test_what_is_derived_does_not_depend_on_how_it_was_asked(self, write_jsonl: WriteJsonl, tmp_path: Path) -> None:
        records: list[Any] = [tevatron(n) for n in range(60)]
        path = write_jsonl([*records[:30], {"query": "no passages"}, *records[30:]])
        derived = []
        for concurrency, stops in [(1, 0), (7, 0), (64, 0), (64, 3)]:
            folder = tmp_path / f"run-{concurrency}-{stops}"
            with ReplyServer(whimsical(0.01)) as server:
                given = settings(path, server.url, output={"dir": str(folder)}, budget={})
                given["clients"]["local"]["concurrency"] = concurrency
                for stop in range(stops):
                    given["budget"] = {"requests": 20 * (stop + 1)}
                    assert run(engine_config(given)).report is None
                given["budget"] = {}
                assert run(engine_config(given)).report is not None
            names = ("cleaned.jsonl", "decisions.parquet", "quarantine.jsonl")
            derived.append([(folder / name).read_bytes() for name in names])
        assert all(files == derived[0] for files in derived)
        assert all(derived[0])


def test_tokens_and_cost_add_up(write_jsonl: WriteJsonl) -> None:
    path = write_jsonl([tevatron(n) for n in range(4)])
    usage = {"prompt_tokens": 1000, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 600}}
    with ReplyServer(lambda _: Answer(NOTHING, usage=usage)) as server:
        prices = {"large": {"prompt": 2, "cached": 1, "completion": 10}}
        tier = start(path, server.url, prices=prices).progress.tiers["only"]
    assert tier.usage == Usage(4000, 2400, 40)
    assert tier.cost == pytest.approx((1600 * 2 + 2400 * 1 + 40 * 10) / 1e6)
