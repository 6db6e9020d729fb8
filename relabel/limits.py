"""What keeps a run from sending more: somebody's wish, its budget, or replies that are of no use."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence

from relabel.config import BudgetSettings
from relabel.costs import Prices
from relabel.errors import RelabelError
from relabel.ledger import Spent
from relabel.records import UNANSWERED, Reply, Request, Usage, Verdict

_BYTES_PER_TOKEN, _REPLY = 4, 300
"""By which the cost of a call is guessed: of its prompt, and the tokens of a reply."""

_USEFUL_AFTER = 100
"""So many replies to a tier must be in before it can be told that they are of no use."""


class Stop:
    """Asks a run to end well: nothing new is sent, what is in flight is awaited and kept."""

    def __init__(self) -> None:
        self.reason = ""
        self.error: RelabelError | None = None
        self.goes_on_with: tuple[str, ...] = ()
        """What must be added to the command for it to go on."""
        self.on_request: list[Callable[[], None]] = []
        """What else to do when somebody will not wait for calls that wait themselves."""

    def __bool__(self) -> bool:
        return bool(self.reason)

    def request(self, reason: str, error: RelabelError | None = None, goes_on_with: Sequence[str] = ()) -> None:
        """Stop for this reason; the first one given stands. Calls that wait to be sent are given up."""
        self.admit_no_more(reason, error, goes_on_with)
        for act in self.on_request:
            act()

    def admit_no_more(self, reason: str, error: RelabelError | None = None, goes_on_with: Sequence[str] = ()) -> None:
        """Stop for this reason, once the calls that are on their way have their replies."""
        if not self.reason:
            self.reason, self.error, self.goes_on_with = reason, error, tuple(goes_on_with)


class Budget:
    """What may still be sent. Near its end that is known only when the calls in flight have landed."""

    def __init__(
        self,
        limits: BudgetSettings,
        prices: Prices,
        spent: Sequence[Spent],
        stop: Stop,
        free: Collection[str] = (),
    ) -> None:
        """Calls of models that are `free` do not count."""
        self._limits = limits
        self._free = free
        self._prices = prices
        self._stop = stop
        self._replies: Counter[str] = Counter()
        self._usd: defaultdict[str, float] = defaultdict(float)
        for one in spent:
            if one.model in free:
                continue
            self._replies[one.model] += one.replies
            self._usd[one.model] += prices.cost(one.model, one.usage) or 0.0
        self._in_flight: Counter[str] = Counter()
        self._guessed: defaultdict[str, float] = defaultdict(float)
        self._guesses: Counter[str] = Counter()
        self._landed = asyncio.Event()

    async def admit(self, model: str) -> bool:
        """Whether another call of this model may be sent; waits while calls in flight may use up what is left."""
        if model in self._free:
            return not self._stop
        self._look_at_the_bill()
        while not self._stop:
            if self._counts_out():
                continue
            if self._affordable():
                self._in_flight[model] += 1
                return True
            await self._landed.wait()
        return False

    def admit_now(self, request: Request, *, sent: bool = False) -> bool:
        """Whether a request may go into a batch: nothing may have landed by then, so that costs are guessed. One that
        was `sent` before is counted in any case.
        """
        model = request.model
        words = Usage(len(request.messages_json) // _BYTES_PER_TOKEN, 0, _REPLY)
        self._guesses[model] += 1
        self._guessed[model] += self._prices.cost(model, words) or 0.0
        if not sent:
            self._look_at_the_bill()
            if self._stop or self._counts_out():
                return False
            if not self._affordable():
                self._spent_up(self._stop.admit_no_more)
                return False
        self._in_flight[model] += 1
        return True

    def _counts_out(self) -> bool:
        """Whether as many requests are sent as may be; then that stops the run."""
        most = self._limits.requests
        if most is None or self._replies.total() + self._in_flight.total() < most:
            return False
        more = ("--set", f"budget.requests={2 * most or 100}")
        self._stop.admit_no_more(f"budget.requests ({most:,}) is reached", goes_on_with=more)
        return True

    def _look_at_the_bill(self) -> None:
        """Stop once it is paid what may be: calls that are admitted and wait to be sent are beyond that, too."""
        if self._limits.usd is not None and sum(self._usd.values()) >= self._limits.usd:
            self._spent_up(self._stop.request)

    def _spent_up(self, stop: Callable[..., None]) -> None:
        most = self._limits.usd or 0.0
        stop(f"budget.usd ({most:g}) is reached", goes_on_with=("--set", f"budget.usd={2 * most:g}"))

    def _affordable(self) -> bool:
        if self._limits.usd is None or not self._in_flight.total():
            return True
        expected = sum(calls * self._price(model) for model, calls in self._in_flight.items())
        return sum(self._usd.values()) + expected < self._limits.usd

    def _price(self, model: str) -> float:
        """What a call of this model is likely to cost, in US dollars: all there is, until the first has landed."""
        if self._replies[model]:
            return self._usd[model] / self._replies[model]
        if self._guesses[model]:
            return self._guessed[model] / self._guesses[model]
        return self._limits.usd or 0.0 if self._prices.cost(model, Usage()) is not None else 0.0

    def land(self, model: str, reply: Reply | None) -> float:
        """A call of this model has got this reply, or none; returns its cost in US dollars."""
        if model in self._free:
            return 0.0
        self._in_flight[model] -= 1
        cost = 0.0
        if reply is not None:
            cost = self._prices.cost(model, reply.usage) or 0.0
            self._replies[model] += 1
            self._usd[model] += cost
            if self._limits.usd is not None and reply.status == "ok" and not reply.usage.prompt:
                self._stop.request(
                    "the server does not say how many tokens a reply has taken, so that budget.usd cannot be held to; "
                    "set budget.requests in its place"
                )
        self._look_at_the_bill()
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

    def blown(self, tier: str, stop: Stop) -> bool:
        """Whether the replies to this tier have shown to be of no use; then it stops the run."""
        replies, useless = self._replies[tier], self._useless[tier]
        if self._share is None or replies < _USEFUL_AFTER or useless.total() <= self._share * replies:
            return False
        reason, count = useless.most_common(1)[0]
        stop.admit_no_more(
            f"{useless.total():,} of {replies:,} replies to tier {tier!r} led to nothing but abstentions, mostly: "
            f"{reason} ({count:,}). Mend the prompt, the model or the server; or set budget.abstained to null, and "
            "abstentions are what they are",
            goes_on_with=("--retry", "refused" if reason == "refused" else "abstained"),
        )
        return True
