"""What a report has to know of a run's tiers, and the words in which it speaks of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from relabel.calibration import FALSE_NEGATIVE
from relabel.cascade import Cascade
from relabel.config import Config, LLMJudgeSettings, ModelScreenSettings, PolicySettings, TierSettings
from relabel.prompts import Prompt
from relabel.report.queries import Flags

LISTWISE = "several candidates in one prompt"
_LISTS = frozenset({"rlhn", "answer-ranking"})


@dataclass(frozen=True)
class TierFacts:
    """One tier: its judge and model, how it asks, its labels, and those by which it flags a candidate."""

    name: str
    judge: str
    model: str | None
    asks: str
    labels: Sequence[str]
    flags: frozenset[str]
    selects: bool = False
    """Whether its labels decide which candidates, and not which whole instances, go on."""

    @property
    def asks_a_model(self) -> bool:
        """Whether its replies may cost something."""
        return self.asks in (LISTWISE, "one candidate in a prompt")


def facts_of(config: Config, cascade: Cascade) -> list[TierFacts]:
    """All tiers, first to last."""
    return [
        TierFacts(
            tier.name,
            judged.judge.name,
            getattr(tier.judge, "model", None),
            _asks(tier, cascade),
            judged.judge.labels,
            _flags(tier, judged.judge.labels, config.policy),
            _selects(tier, judged.judge.labels),
        )
        for tier, judged in zip(config.cascade, cascade.tiers, strict=True)
    ]


def flags_of(facts: Sequence[TierFacts]) -> Flags:
    """The flagging labels of each tier."""
    return Flags({one.name: one.flags for one in facts})


def acted_on(policy: PolicySettings) -> frozenset[str]:
    """The labels that do not leave a candidate among the negatives."""
    return frozenset((*policy.relabel, *policy.drop, *policy.remove, *policy.drop_any))


def _flags(tier: TierSettings, labels: Sequence[str], policy: PolicySettings) -> frozenset[str]:
    """Those that the policy acts on; if there is none, those that are passed on, if these are not all; else all but the
    least.
    """
    if FALSE_NEGATIVE in labels:
        return frozenset({FALSE_NEGATIVE})
    acting = acted_on(policy) & set(labels)
    passed_on = set(tier.escalate.labels if tier.escalate else ()) & set(labels)
    if acting:
        return acting
    return frozenset(passed_on if passed_on and passed_on != set(labels) else labels[1:])


def _selects(tier: TierSettings, labels: Sequence[str]) -> bool:
    passes = tier.escalate
    return passes is not None and passes.scope == "candidate" and not set(labels) <= set(passes.labels)


def _asks(tier: TierSettings, cascade: Cascade) -> str:
    if isinstance(tier.judge, LLMJudgeSettings):
        prompt: Prompt = cascade.prompts[tier.judge.prompt]
        return LISTWISE if prompt.head.reply in _LISTS else "one candidate in a prompt"
    return "a small model in this process" if isinstance(tier.judge, ModelScreenSettings) else "no model"
