"""What the calls behind a run's verdicts came to, tier by tier, and how much of them a server could have cached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from relabel.records import Call, Reply


@dataclass(slots=True)
class TierMeter:
    """The calls of one tier. `prefix_tokens` are the prompt tokens that began a prompt of the same query before."""

    calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    prefix_tokens: float = 0.0


@dataclass(slots=True)
class Meter:
    """Counts the calls of one instance after another."""

    tiers: dict[str, TierMeter] = field(default_factory=dict)
    _before: dict[str, list[str]] = field(default_factory=dict)
    _asked: set[str] = field(default_factory=set)

    def begin(self) -> None:
        """Another query: what was sent for the one before does not count."""
        self._before.clear()
        self._asked.clear()

    def add(self, calls: Sequence[Call], replies: Sequence[Reply | None]) -> None:
        """Count answered calls, a repeated one once, in the order in which they are sent."""
        for call, reply in zip(calls, replies, strict=True):
            if reply is None or call.request.key in self._asked:
                continue
            self._asked.add(call.request.key)
            tier = self.tiers.setdefault(call.tier, TierMeter())
            tier.calls += 1
            tier.prompt_tokens += reply.usage.prompt
            tier.cached_tokens += reply.usage.cached
            tier.completion_tokens += reply.usage.completion
            prompt = "".join([message["content"] for message in call.request.messages])
            before = self._before.setdefault(call.request.model, [])
            if prompt:
                tier.prefix_tokens += reply.usage.prompt * _shared(prompt, before) / len(prompt)
            before.append(prompt)

    def as_dict(self, tier: str) -> dict[str, Any]:
        """One tier's counts for report.json. `prefix_share` is null where the server counts no tokens."""
        one = self.tiers.get(tier, TierMeter())
        return {
            "calls": one.calls,
            "prompt_tokens": one.prompt_tokens,
            "cached_tokens": one.cached_tokens,
            "completion_tokens": one.completion_tokens,
            "prefix_share": round(one.prefix_tokens / one.prompt_tokens, 4) if one.prompt_tokens else None,
        }


def _shared(prompt: str, before: Sequence[str]) -> int:
    """How many letters at the start of a prompt stood at the start of one before it."""
    most = 0
    for earlier in before:
        if prompt[: most + 1] != earlier[: most + 1]:
            continue
        low, high = most, min(len(prompt), len(earlier))
        while low < high:
            middle = (low + high + 1) // 2
            if prompt[low:middle] == earlier[low:middle]:
                low = middle
            else:
                high = middle - 1
        most = low
    return most
