"""Where replies come from: the ledger, a request that is in flight already, or a client; and what that comes to."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from relabel.clients import Client, Deferring, Watched
from relabel.config import BudgetSettings
from relabel.costs import Prices
from relabel.errors import LedgerError, RunStopped, Unanswered
from relabel.ledger import Entry, Ledger
from relabel.limits import Budget, Fuse, Stop
from relabel.records import Call, Reply, Usage

_BESIDES = 16
"""So many calls, and two for each request that may be in flight, are open at once."""

_IN_VAIN = 100
"""So many requests in a row without one reply, each after all its attempts, end a run."""


@dataclass(slots=True)
class TierProgress:
    """How far one tier is, in calls; tokens and cost are of this process alone. A screen's calls are `free`."""

    free: bool = False
    replied: int = 0
    awaited: int = 0
    hits: int = 0
    """Replies that the ledger held in this pass over the source."""
    earlier: int = 0
    """Of them, those that were new in an earlier pass."""
    unanswered: int = 0
    candidates: int = 0
    abstained: int = 0
    usage: Usage = field(default_factory=Usage)
    cost: float = 0.0

    @property
    def sent(self) -> int:
        """Requests that were sent and came to an end, with a reply or without."""
        return self.replied + self.unanswered

    @property
    def from_ledger(self) -> int:
        """Calls that were answered before this process was."""
        return max(self.hits - self.earlier, 0)

    @property
    def done(self) -> int:
        """Calls that are answered in this pass, wherever from."""
        return self.replied - self.earlier + self.hits


@dataclass(slots=True)
class Progress:
    """What a screen or a log needs to know of a pass over the source."""

    tiers: dict[str, TierProgress]
    read: int = 0
    instances: int = 0
    quarantined: int = 0
    fraction_read: float | None = None
    unanswered: dict[str, int] = field(default_factory=dict)
    stopping: str = ""
    pulse: str = ""
    """How servers and engines are doing, in their own words."""

    def begin(self) -> None:
        """Another pass over the source: what was answered before comes from the ledger now."""
        self.read = self.instances = self.quarantined = 0
        self.unanswered.clear()
        for tier in self.tiers.values():
            tier.candidates = tier.abstained = tier.unanswered = 0
            tier.hits, tier.earlier = 0, tier.replied

    @property
    def replied(self) -> int:
        """New replies so far."""
        return sum(tier.replied for tier in self.tiers.values())

    @property
    def fraction(self) -> float | None:
        """The share of the source that is answered, where it can be told."""
        return self.fraction_read * self.instances / self.read if self.fraction_read and self.read else None


def most_open(clients: Mapping[str, Client]) -> int:
    """How many calls are open at once: enough that there is always one to send, few enough to hear of replies soon."""
    return _BESIDES + 2 * sum(client.concurrency for client in clients.values())


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
        note: Callable[..., None],
        free: Collection[str] = (),
    ) -> None:
        """`note` is told of requests that end without a reply or are refused: an event, and its fields by name. Calls
        of models that are `free` count for no budget.
        """
        self.fuse = Fuse(budget.abstained)
        self.put_off = 0
        """Calls that had to wait for the end of the pass."""
        self._share = budget.abstained
        self._ledger = ledger
        self._clients = clients
        self._deferring = {name: client for name, client in clients.items() if isinstance(client, Deferring)}
        self._budget = Budget(budget, prices, ledger.spent(), stop, free)
        self._progress = progress
        self._stop = stop
        self._note = note
        self._in_flight: dict[str, asyncio.Future[Reply | None]] = {}
        self._in_vain = 0
        self._open = 0
        self._most = most_open(clients)
        self._wait_for_room: deque[asyncio.Future[None]] = deque()
        stop.on_request += [client.halt for client in clients.values()]

    async def room(self) -> None:
        """Wait until few enough calls are open that those of another instance would not wait long.

        A question that is asked again stands behind them all: with too many, nobody would know for long that replies
        are of no use.
        """
        while self._open >= self._most:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._wait_for_room.append(turn)
            await turn
        self._call_in()

    def _call_in(self) -> None:
        """Have the next who waits for room look whether there is any."""
        while self._wait_for_room and self._open < self._most:
            turn = self._wait_for_room.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    async def ask_all(self, calls: Sequence[Call], near: str = "") -> Sequence[Reply | None]:
        """The replies to calls of one instance, each as `ask` has it."""
        self._open += len(calls)
        try:
            if len(calls) == 1:
                return [await self.ask(calls[0], near)]
            return await asyncio.gather(*(self.ask(call, near) for call in calls))
        finally:
            self._open -= len(calls)
            self._call_in()

    async def ask(self, call: Call, near: str = "") -> Reply | None:
        """The reply, or None where there is none: an optional call, a stop, or no answer after all attempts."""
        tier = self._progress.tiers[call.tier]
        key = call.request.key
        if (same := self._in_flight.get(key)) is not None:
            reply = await asyncio.shield(same)
            tier.hits += reply is not None
            return reply
        if (known := self._ledger.get(key)) is not None:
            tier.hits += 1
            return known
        if call.optional or self._stop:
            return None
        if self.fuse.blown(call.tier, self._stop):
            return None
        deferring = self._deferring.get(call.client)
        if deferring is not None and deferring.puts_off(call):
            self.put_off += 1
            return None
        future = self._in_flight[key] = asyncio.get_running_loop().create_future()
        reply = None
        try:
            if await self._budget.admit(call.request.model):
                reply = await self._send(call, tier, near)
        finally:
            del self._in_flight[key]
            future.set_result(reply)
        return reply

    async def _send(self, call: Call, tier: TierProgress, near: str) -> Reply | None:
        client = self._clients[call.client]
        tier.awaited += 1
        found = reply = None
        try:
            try:
                found = await client.send(call.request, near)
            finally:  # before it is stored: another request may take its place at once
                cost = self._budget.land(call.request.model, found)
            await self._ledger.append(Entry(call, found, client.endpoint))
            reply = found
        except Unanswered as fault:
            tier.unanswered += 1
            self._note("unanswered", tier=call.tier, request=call.request.key, reason=str(fault))
            self._count_unanswered(str(fault))
        except (RunStopped, LedgerError) as fault:
            self._stop.request(str(fault), fault)
        finally:
            tier.awaited -= 1
        if reply is not None:
            self._count(call, reply, cost)
        return reply

    def _count(self, call: Call, reply: Reply, cost: float) -> None:
        tier = self._progress.tiers[call.tier]
        self._in_vain = 0
        tier.replied += 1
        if reply.status == "refused":
            self._note("refused", tier=call.tier, request=call.request.key, reason=reply.error)
        tier.cost += cost
        tier.usage = Usage(
            tier.usage.prompt + reply.usage.prompt,
            tier.usage.cached + reply.usage.cached,
            tier.usage.completion + reply.usage.completion,
        )

    async def settle(self) -> None:
        """Between two passes: have what was put off seen to, and begin anew."""
        try:
            for client in self._deferring.values():
                if not self._stop:
                    await client.settle(self)
        except (RunStopped, LedgerError) as fault:
            self._stop.request(str(fault), fault)
        if not self._stop:
            self.put_off = 0
            self.fuse = Fuse(self._share)
            self._progress.begin()

    def pulse(self) -> str:
        """How those who answer are doing, as far as they know."""
        return " · ".join(filter(None, (one.pulse() for one in self._clients.values() if isinstance(one, Watched))))

    def admit(self, call: Call, *, sent: bool = False) -> bool:
        """Whether the budget has room for a call that was put off. One that was sent before is counted, room or not,
        unless its reply was stored before some process ended.
        """
        if sent and self._ledger.get(call.request.key) is not None:
            return False
        return self._budget.admit_now(call.request, sent=sent)

    async def store(self, call: Call, reply: Reply | None) -> None:
        """Take in the reply to such a call, or that it gets none for now."""
        cost = self._budget.land(call.request.model, reply)
        if reply is not None:
            await self._ledger.append(Entry(call, reply, self._clients[call.client].endpoint))
            self._count(call, reply, cost)

    def _count_unanswered(self, reason: str) -> None:
        """Keep the reason; after very many in a row without one reply between, stop."""
        reasons = self._progress.unanswered
        reasons[reason] = reasons.get(reason, 0) + 1
        self._in_vain += 1
        if self._in_vain >= _IN_VAIN:
            self._stop.request(f"the last {self._in_vain} requests got no reply: {reason}")
