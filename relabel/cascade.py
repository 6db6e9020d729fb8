"""Tiers, cheap first: each judges what the one before it passed on. No disk, no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from relabel.config import Config, EscalateSettings, LLMJudgeSettings
from relabel.errors import ConfigError
from relabel.judges import EMPTY_TEXT, Judge, ListwiseJudge, Retry
from relabel.prompts import Criteria, Prompt, load_prompt
from relabel.records import UNANSWERED, Asking, Instance, Verdict
from relabel.screens import Screen


@dataclass(frozen=True)
class Tier:
    """One judge's place in the cascade, with the rule for what it passes on."""

    name: str
    judge: Judge
    escalate: EscalateSettings | None

    def passes_on(self, candidates: Sequence[int], verdicts: dict[int, Verdict]) -> list[int]:
        """The candidates that the next tier shall judge; none as long as a verdict is still unanswered."""
        if self.escalate is None or any(v.abstained == UNANSWERED for v in verdicts.values()):
            return []
        wanted = {
            place
            for place in candidates
            if (verdicts[place].label or "abstained") in self.escalate.labels
            and verdicts[place].abstained != EMPTY_TEXT  # no judge could say more
        }
        if wanted and self.escalate.scope == "instance":
            return list(candidates)
        return [place for place in candidates if place in wanted]


class Cascade:
    """The tiers of a config. Loads and checks every prompt, so that a mistake shows before anything is sent."""

    def __init__(self, config: Config, retry: Retry = frozenset()) -> None:
        self._criteria = Criteria(config.criteria)
        self.prompts: dict[str, Prompt] = {}
        self.tiers: list[Tier] = []
        for tier in config.cascade:
            judge: Judge
            if isinstance(tier.judge, LLMJudgeSettings):
                prompt = load_prompt(tier.judge.prompt)
                self._criteria.check(prompt)
                self.prompts[tier.judge.prompt] = prompt
                judge = ListwiseJudge(tier.name, tier.judge, prompt, retry)
            else:
                judge = Screen(tier.name, tier.judge)
            self.tiers.append(Tier(tier.name, judge, tier.escalate))
        self._check_labels(config)

    def _check_labels(self, config: Config) -> None:
        """Refuse a label that nobody gives: what it should lead to would silently never happen."""
        given = dict.fromkeys(label for tier in self.tiers for label in tier.judge.labels)
        for action in ("relabel", "drop", "remove"):
            for label in getattr(config.policy, action):
                if label not in given:
                    raise ConfigError(
                        f"policy.{action}: no tier gives the label {label!r}; they give {', '.join(given)}"
                    )
        for tier in self.tiers:
            known = (*tier.judge.labels, "abstained")
            for label in tier.escalate.labels if tier.escalate else ():
                if label not in known:
                    raise ConfigError(f"tier {tier.name!r} cannot escalate {label!r}; it gives {', '.join(known)}")

    def judge(self, instance: Instance) -> Asking[list[tuple[Verdict, ...]]]:
        """All verdicts on each candidate, tier by tier; none for an instance whose subset is left unjudged."""
        verdicts: list[tuple[Verdict, ...]] = [() for _ in instance.negatives]
        kind = self._criteria.kind(instance.subset)
        candidates: list[int] = list(range(len(instance.negatives))) if kind is not None else []
        for tier in self.tiers:
            if kind is None or not candidates:
                break
            found = yield from tier.judge.judge(instance, kind, candidates)
            for place, verdict in found.items():
                verdicts[place] += (verdict,)
            candidates = tier.passes_on(candidates, found)
        return verdicts
