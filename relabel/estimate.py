"""What a run will take, before anything is spent: calls, tokens and US dollars per tier. Sends nothing.

Calls of a tier are counted by rendering its prompts for what reaches it. What reaches a tier is known as far as the
ledger answers; for the rest, the share that the answered part shows (a pilot: `relabel run --limit 200`) is taken, or
all of it, as an upper bound, where nothing is answered yet: every candidate, and whole passages in the place of
snippets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise

from relabel.cascade import Tier
from relabel.config import LLMJudgeSettings
from relabel.costs import Prices
from relabel.folder import Opened
from relabel.ledger import Ledger
from relabel.records import Call, Instance, Quarantined, Reply, Usage

BYTES_PER_TOKEN = 4.0
"""English text by the usual tokenizers; replaced by what the ledger's replies show once there are any."""

PILOT = 20
"""Answered instances from which a tier's escalation rate is taken as measured."""


@dataclass(frozen=True, slots=True)
class TierEstimate:
    """One tier: how many calls its ledger answers already, and what is still to be sent."""

    tier: str
    model: str
    answered: int
    calls: int
    prompt_tokens: int
    completion_tokens: int
    usd: float | None
    basis: str


@dataclass(slots=True)
class _Calls:
    """Calls and the bytes of their prompts, of so many instances."""

    reached: int = 0
    calls: int = 0
    size: int = 0


@dataclass(slots=True)
class _Count(_Calls):
    """What is known of one tier: instances that reach it, those that wait for a reply, its calls, and what they would
    be at most.
    """

    waiting: int = 0
    answered: int = 0
    answered_size: int = 0
    prompt: int = 0
    completion: int = 0
    most: _Calls = field(default_factory=_Calls)


def estimate(opened: Opened, ledger: Ledger | None) -> list[TierEstimate]:
    """One estimate for each tier that asks an LLM; `ledger` tells what is answered already and how it went."""
    judges = {tier.name: tier.judge for tier in opened.config.cascade if isinstance(tier.judge, LLMJudgeSettings)}
    counts = {tier.name: _Count() for tier in opened.config.cascade}
    for record in islice(opened.source, opened.config.input.limit):
        if not isinstance(record, Quarantined):
            _count(opened, record, ledger, counts)
    prices = Prices(opened.config.rates)
    forms = {name: opened.cascade.prompts[judge.prompt].form for name, judge in judges.items()}
    found: list[TierEstimate] = []
    shares = _calibrated_shares(opened)
    before, open_before, all_reach = _Count(), 0.0, True
    for tier in opened.cascade.tiers:
        name, count = tier.name, counts[tier.name]
        if name not in judges and not count.calls and not count.most.calls:
            all_reach &= _passes_all(tier)
            continue
        more, basis = _still_to_come(before, count, open_before, 1.0 if all_reach else shares.get(name))
        open_before, all_reach = count.waiting + more, _passes_all(tier)
        before = count if count.calls else before
        if name not in judges:
            continue
        pattern = count if count.calls else count.most
        calls = count.calls - count.answered + more * pattern.calls / max(pattern.reached, 1)
        size = count.size - count.answered_size + more * pattern.size / max(pattern.reached, 1)
        tokens_per_byte = count.prompt / count.answered_size if count.prompt else 1 / BYTES_PER_TOKEN
        tokens_per_reply = (
            count.completion / count.answered
            if count.completion
            else min(forms[name].tokens, judges[name].max_tokens or forms[name].tokens)
        )
        usage = Usage(round(size * tokens_per_byte), 0, round(calls * tokens_per_reply))
        model = judges[name].model
        cost = prices.cost(model, usage)
        found.append(
            TierEstimate(name, model, count.answered, round(calls), usage.prompt, usage.completion, cost, basis)
        )
    return found


def _passes_all(tier: Tier) -> bool:
    """Whether a tier passes on all candidates, whatever it says of them."""
    return tier.escalate is not None and {*tier.judge.labels, "abstained"} <= {*tier.escalate.labels}


def _calibrated_shares(opened: Opened) -> dict[str, float]:
    """By tier, the share of candidates that the calibration before it was told to let through."""
    names = [tier.name for tier in opened.cascade.tiers]
    return {
        after: opened.cascade.calibrated[name].calibration.measured.chosen.share
        for name, after in pairwise(names)
        if name in opened.cascade.calibrated and opened.cascade.calibrated[name].part == "cheap"
    }


def _still_to_come(before: _Count, count: _Count, waiting: float, share: float | None) -> tuple[float, str]:
    """How many of the instances that wait at the tier before will reach this one too, and how that is known. `share` is
    what a calibration lets through of each.
    """
    if not waiting or share == 1:
        return waiting, "every instance, counted"
    answered = before.reached - before.waiting
    if answered < PILOT and share is not None:
        return waiting * share, f"{share:.0%} of the candidates, as its calibration was told"
    if answered < PILOT:
        pilot = (
            f"{answered} answered are too few to measure, {PILOT} at least" if answered else "run a pilot to measure"
        )
        return waiting, f"at most, as if everything escalated ({pilot})"
    rate = count.reached / answered
    return waiting * rate, f"{rate:.0%} escalated of {answered:,} answered"


def _count(opened: Opened, instance: Instance, ledger: Ledger | None, counts: dict[str, _Count]) -> None:
    asking = opened.cascade.judge(instance)
    seen: set[str] = set()
    replies: Sequence[Reply | None] | None = None
    complete: dict[str, bool] = {}
    try:
        while True:
            calls = asking.send(replies)  # type: ignore[arg-type]
            replies = [ledger.get(call.request.key) if ledger else None for call in calls]
            for call, reply in zip(calls, replies, strict=True):
                if not call.optional and call.request.key not in seen:
                    seen.add(call.request.key)
                    _add(counts[call.tier], call, reply)
                    complete[call.tier] = complete.get(call.tier, True) and reply is not None
    except StopIteration:
        for tier, answered in complete.items():
            counts[tier].reached += 1
            counts[tier].waiting += not answered
    if not all(complete.values()):
        for later in opened.cascade.tiers:
            if later.name not in complete:
                _add_most(counts[later.name].most, opened.cascade.first_calls(later, instance))


def _add_most(most: _Calls, calls: Sequence[Call]) -> None:
    most.reached += 1
    most.calls += len(calls)
    most.size += sum(len(message["content"].encode()) for call in calls for message in call.request.messages)


def _add(count: _Count, call: Call, reply: Reply | None) -> None:
    size = sum(len(message["content"].encode()) for message in call.request.messages)
    count.calls += 1
    count.size += size
    if reply is not None:
        count.answered += 1
        count.answered_size += size
        count.prompt += reply.usage.prompt
        count.completion += reply.usage.completion
