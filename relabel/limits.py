"""What keeps a run from sending more: somebody's wish, its budget, or replies that are of no use."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

from relabel.config import BudgetSettings
from relabel.costs import Prices
from relabel.errors import RelabelError
from relabel.ledger import Spent
from relabel.records import UNANSWERED, Reply, Usage, Verdict

_USEFUL_AFTER = 100
"""So many replies to a tier must be in before it can be told that they are of no use."""


class Stop:
    """Asks a run to end well: nothing new is sent, what is in flight is awaited and kept."""

    def __init__(self) -> None:
        self.reason = ""
        self.error: RelabelError | None = None
        self.on_request: list[Callable[[], None]] = []
        """What else to do when somebody will not wait for calls that wait themselves."""

    def __bool__(self) -> bool:
        return bool(self.reason)

    def request(self, reason: str, error: RelabelError | None = None) -> None:
        """Stop for this reason; the first one given stands. Calls that wait to be sent are given up."""
        self.admit_no_more(reason, error)
        for act in self.on_request:
            act()

    def admit_no_more(self, reason: str, error: RelabelError | None = None) -> None:
        """Stop for this reason, once the calls that are on their way have their replies."""
        if not self.reason:
            self.reason, self.error = reason, error


class Budget:
    """What may still be sent. Near its end that is known only when the calls in flight have landed."""

    def __init__(self, limits: BudgetSettings, prices: Prices, spent: Sequence[Spent]) -> None:
        self._limits = limits
        self._prices = prices
        self._replies: Counter[str] = Counter()
        self._usd: defaultdict[str, float] = defaultdict(float)
        for one in spent:
            self._replies[one.model] += one.replies
            self._usd[one.model] += prices.cost(one.model, one.usage) or 0.0
        self._in_flight: Counter[str] = Counter()
        self._landed = asyncio.Event()

    def reached(self) -> str:
        """Which limit is reached, in words; nothing as long as none is."""
        requests, usd = self._replies.total() + self._in_flight.total(), sum(self._usd.values())
        if self._limits.requests is not None and requests >= self._limits.requests:
            return f"budget.requests is reached: {requests} sent"
        if self._limits.usd is not None and usd >= self._limits.usd:
            return f"budget.usd is reached: {usd:.4f} spent"
        return ""

    async def admit(self, model: str, stop: Stop) -> bool:
        """Whether another call of this model may be sent; waits while calls in flight may use up what is left."""
        while not stop:
            if reached := self.reached():
                stop.admit_no_more(reached)
            elif self._affordable():
                self._in_flight[model] += 1
                return True
            else:
                await self._landed.wait()
        return False

    def _affordable(self) -> bool:
        if self._limits.usd is None or not self._in_flight.total():
            return True
        expected = sum(calls * self._price(model) for model, calls in self._in_flight.items())
        return sum(self._usd.values()) + expected < self._limits.usd

    def _price(self, model: str) -> float:
        """What a call of this model is likely to cost, in US dollars: all there is, until the first has landed."""
        if self._replies[model]:
            return self._usd[model] / self._replies[model]
        return self._limits.usd or 0.0 if self._prices.cost(model, Usage()) is not None else 0.0

    def land(self, model: str, reply: Reply | None) -> float:
        """A call of this model has got this reply, or none; returns its cost in US dollars."""
        self._in_flight[model] -= 1
        cost = 0.0
        if reply is not None:
            cost = self._prices.cost(model, reply.usage) or 0.0
            self._replies[model] += 1
            self._usd[model] += cost
        self._landed.set()
        self._landed = asyncio.Event()
        return cost


class Fuse:
    """Blows when nearly all replies to a tier lead to nothing but abstentions, before that costs the whole budget."""

    def __init__(self, share: float | None) -> None:
        """`share` is the greatest share of such replies that is borne; None bears all."""
        self._share = share
        self._replies: Counter[str] = Counter()
        self._useless: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def add(self, verdicts: Iterable[Verdict]) -> None:
        """Take note of the verdicts of one instance."""
        reasons: dict[tuple[str, str], str] = {}
        for verdict in verdicts:
            if verdict.key is None or verdict.abstained == UNANSWERED:
                continue
            place = (verdict.tier, verdict.key)
            reasons[place] = verdict.abstained or "" if reasons.get(place, "-") else ""
        for (tier, _), reason in reasons.items():
            self._replies[tier] += 1
            if reason:
                self._useless[tier][reason] += 1

    def blown(self, tier: str) -> str:
        """What is wrong with the replies to this tier, in words; nothing as long as they are of use."""
        replies, useless = self._replies[tier], self._useless[tier]
        if self._share is None or replies < _USEFUL_AFTER or useless.total() <= self._share * replies:
            return ""
        reason, count = useless.most_common(1)[0]
        return (
            f"{useless.total():,} of {replies:,} replies to tier {tier!r} led to nothing but abstentions, mostly: "
            f"{reason} ({count:,})"
        )
