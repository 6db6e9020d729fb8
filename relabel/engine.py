"""Drives a cascade over a source until the ledger holds every reply that is needed.

Instances are answered in any order and forgotten at once; what comes of them is derived afterwards, in the order of the
source, from the ledger alone (relabel.export). So memory is bounded by what is in flight, and a slow reply delays
nobody but itself.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

from relabel.cascade import Cascade
from relabel.clients import Client
from relabel.config import BudgetSettings
from relabel.costs import Prices
from relabel.errors import LedgerError, RelabelError, RunStopped, Unanswered
from relabel.formats import Source
from relabel.ledger import Entry, Ledger
from relabel.records import Call, Instance, Quarantined, Reply, Usage

_READ_AHEAD = 32


@dataclass(slots=True)
class TierProgress:
    """How far one tier is, in calls; tokens and cost are of this process alone."""

    sent: int = 0
    replied: int = 0
    in_flight: int = 0
    from_ledger: int = 0
    unanswered: int = 0
    candidates: int = 0
    abstained: int = 0
    usage: Usage = field(default_factory=Usage)
    cost: float = 0.0

    @property
    def done(self) -> int:
        """Calls that are answered, wherever from."""
        return self.replied + self.from_ledger


@dataclass(slots=True)
class Progress:
    """What a screen or a log needs to know of a pass over the source."""

    tiers: dict[str, TierProgress]
    read: int = 0
    instances: int = 0
    quarantined: int = 0
    fraction_read: float | None = None
    unanswered: dict[str, int] = field(default_factory=dict)

    @property
    def fraction(self) -> float | None:
        """The share of the source that is answered, where it can be told."""
        return self.fraction_read * self.instances / self.read if self.fraction_read and self.read else None


class Stop:
    """Asks a run to end well: nothing new is sent, what is in flight is awaited and kept."""

    def __init__(self) -> None:
        self.reason = ""
        self.error: RelabelError | None = None

    def __bool__(self) -> bool:
        return bool(self.reason)

    def request(self, reason: str, error: RelabelError | None = None) -> None:
        """Stop for this reason; the first one given stands."""
        if not self.reason:
            self.reason, self.error = reason, error


class Asker:
    """Where replies come from: the ledger, a request that is in flight already, or a client."""

    def __init__(
        self,
        ledger: Ledger,
        clients: Mapping[str, Client],
        budget: BudgetSettings,
        prices: Prices,
        progress: Progress,
        stop: Stop,
    ) -> None:
        self._ledger = ledger
        self._clients = clients
        self._budget = budget
        self._prices = prices
        self._progress = progress
        self._stop = stop
        self._in_flight: dict[str, asyncio.Future[Reply | None]] = {}
        spent = ledger.spent()
        self._requests = sum(one.replies for one in spent)
        self._usd = sum(prices.cost(one.model, one.usage) or 0.0 for one in spent)

    async def ask(self, call: Call) -> Reply | None:
        """The reply, or None where there is none: an optional call, a stop, or no answer after all attempts."""
        tier = self._progress.tiers[call.tier]
        key = call.request.key
        if (same := self._in_flight.get(key)) is not None:
            reply = await asyncio.shield(same)
            tier.from_ledger += reply is not None
            return reply
        if (known := self._ledger.get(key)) is not None:
            tier.from_ledger += 1
            return known
        if call.optional or not self._may_send():
            return None
        future = self._in_flight[key] = asyncio.get_running_loop().create_future()
        reply = None
        try:
            reply = await self._send(call, tier)
        finally:
            del self._in_flight[key]
            future.set_result(reply)
        return reply

    def _may_send(self) -> bool:
        if self._stop:
            return False
        if self._budget.requests is not None and self._requests >= self._budget.requests:
            self._stop.request(f"budget.requests is reached: {self._requests}")
        elif self._budget.usd is not None and self._usd >= self._budget.usd:
            self._stop.request(f"budget.usd is reached: {self._usd:.2f}")
        return not self._stop

    async def _send(self, call: Call, tier: TierProgress) -> Reply | None:
        client = self._clients[call.client]
        self._requests += 1
        tier.sent += 1
        tier.in_flight += 1
        try:
            reply = await client.send(call.request)
            await self._ledger.append(Entry(call, reply, client.endpoint))
        except Unanswered as fault:
            tier.unanswered += 1
            reason = str(fault)
            self._progress.unanswered[reason] = self._progress.unanswered.get(reason, 0) + 1
            return None
        except (RunStopped, LedgerError) as fault:
            self._stop.request(str(fault), fault)
            return None
        finally:
            tier.in_flight -= 1
        cost = self._prices.cost(call.request.model, reply.usage) or 0.0
        self._usd += cost
        tier.replied += 1
        tier.cost += cost
        tier.usage = Usage(
            tier.usage.prompt + reply.usage.prompt,
            tier.usage.cached + reply.usage.cached,
            tier.usage.completion + reply.usage.completion,
        )
        return reply


async def answer(
    source: Source,
    cascade: Cascade,
    asker: Asker,
    progress: Progress,
    stop: Stop,
    *,
    workers: int,
    limit: int | None = None,
) -> None:
    """Have every call that the source needs answered, or as many as `stop` allows. Progress tells what came of it."""
    queue: asyncio.Queue[Instance | None] = asyncio.Queue(2 * _READ_AHEAD)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_read(source, queue, progress, stop, workers, limit))
        for _ in range(workers):
            tasks.create_task(_work(cascade, asker, queue, progress))


async def _read(
    source: Source,
    queue: asyncio.Queue[Instance | None],
    progress: Progress,
    stop: Stop,
    workers: int,
    limit: int | None,
) -> None:
    """Read ahead in a thread, so that a slow disk or hub does not hold up replies."""
    loop = asyncio.get_running_loop()
    records = islice(source, limit)
    with ThreadPoolExecutor(1, "reader") as thread:
        while not stop:
            batch = await loop.run_in_executor(thread, _take, records)
            for record in batch:
                if isinstance(record, Quarantined):
                    progress.quarantined += 1
                elif not stop:
                    progress.read += 1
                    await queue.put(record)
            progress.fraction_read = source.fraction()
            if len(batch) < _READ_AHEAD:
                break
    for _ in range(workers):
        await queue.put(None)


def _take(records: Iterator[Instance | Quarantined]) -> list[Instance | Quarantined]:
    return list(islice(records, _READ_AHEAD))


async def _work(cascade: Cascade, asker: Asker, queue: asyncio.Queue[Instance | None], progress: Progress) -> None:
    while (instance := await queue.get()) is not None:
        await _answer_one(cascade, asker, instance, progress)
        progress.instances += 1


async def _answer_one(cascade: Cascade, asker: Asker, instance: Instance, progress: Progress) -> None:
    asking = cascade.judge(instance)
    replies: Sequence[Reply | None] | None = None
    try:
        while True:
            calls = asking.send(replies)  # type: ignore[arg-type]
            if len(calls) == 1:
                replies = [await asker.ask(calls[0])]
            else:
                replies = await asyncio.gather(*(asker.ask(call) for call in calls))
    except StopIteration as finished:
        for verdicts in finished.value:
            for verdict in verdicts:
                tier = progress.tiers[verdict.tier]
                tier.candidates += 1
                tier.abstained += verdict.abstained is not None


@contextmanager
def interruptible(stop: Stop) -> Iterator[None]:
    """Within it, a first Ctrl-C (or SIGTERM) asks for a stop and a second cancels the task that entered."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def interrupt() -> None:
        if stop and task is not None:
            task.cancel()
        stop.request("interrupted")

    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, interrupt)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


Watch = Callable[[Progress], None]


async def watched(progress: Progress, watch: Watch, every: float) -> None:
    """Tell `watch` of the progress, again and again, until cancelled."""
    while True:
        watch(progress)
        await asyncio.sleep(every)
