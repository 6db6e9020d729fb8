"""Tiers, cheap first: each judges what the one before it passed on. No disk, no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from relabel.config import CalibratedSettings, Config, EscalateSettings, LLMJudgeSettings
from relabel.errors import ConfigError
from relabel.forms import ANSWER, FORMS
from relabel.judges import EMPTY_TEXT, SUSPECT_POSITIVE, Found, Judge, Retry, make_judge
from relabel.prompts import Criteria, Prompt, load_prompt
from relabel.records import UNANSWERED, Asking, Call, Case, Instance, Verdict
from relabel.screens import make_screen
from relabel.screens.calibrated import CalibratedJudge

_FINAL = (EMPTY_TEXT, SUSPECT_POSITIVE)
"""Reasons to abstain that no other judge of the same passages could do away with."""


@dataclass(frozen=True)
class Tier:
    """One judge's place in the cascade, with the rule for what it passes on."""

    name: str
    judge: Judge
    escalate: EscalateSettings | None

    def passes_on(self, candidates: Sequence[int], found: Found, following: Tier | None) -> list[int]:
        """The candidates that the next tier shall judge."""
        if self.escalate is None or following is None:
            return []
        weighs = isinstance(following.judge, CalibratedJudge)  # what others have said, and that they said nothing
        final = (UNANSWERED,) if weighs else (UNANSWERED, *_FINAL)
        wanted = {
            place
            for place in candidates
            if (found.candidates[place].label or "abstained") in self.escalate.labels
            and found.candidates[place].abstained not in final
        }
        if wanted and self.escalate.scope == "instance":
            return list(candidates)
        return [place for place in candidates if place in wanted]


class Cascade:
    """The tiers of a config. Loads and checks every prompt and calibration, so that a mistake shows before anything is
    sent.
    """

    def __init__(self, config: Config, retry: Retry = frozenset()) -> None:
        self._criteria = Criteria(config.criteria)
        self.prompts: dict[str, Prompt] = {}
        self.calibrated: dict[str, CalibratedJudge] = {}
        self.tiers: list[Tier] = []
        for tier in config.cascade:
            judge: Judge
            if isinstance(tier.judge, LLMJudgeSettings):
                prompt = load_prompt(tier.judge.prompt)
                self._criteria.check(prompt)
                self._check_settings(tier.name, tier.judge, prompt)
                self.prompts[tier.judge.prompt] = prompt
                judge = make_judge(tier.name, tier.judge, prompt, retry)
            elif isinstance(tier.judge, CalibratedSettings):
                before = {one.name: one.judge for one in self.tiers}
                judge = self.calibrated[tier.name] = CalibratedJudge(tier.name, tier.judge, before)
            else:
                judge = make_screen(tier.name, tier.judge)
            self.tiers.append(Tier(tier.name, judge, tier.escalate))
        self.judges_positives = any(ANSWER in tier.judge.labels for tier in self.tiers)
        self._check_labels(config)

    def _check_settings(self, tier: str, settings: LLMJudgeSettings, prompt: Prompt) -> None:
        """Refuse a setting that would change nothing, and a ranking of snippets that nobody has looked for."""
        form = prompt.head.reply
        for name in _OF_SOME_FORMS - prompt.form.settings:
            if getattr(settings, name) != LLMJudgeSettings.model_fields[name].default:
                known = ", ".join(sorted(prompt.form.settings))
                raise ConfigError(f"tier {tier!r}: {name!r} means nothing to a judge of form {form!r}; it has {known}")
        if any(ANSWER in before.judge.labels for before in self.tiers):
            return
        wanted = {"show": "snippets", "suspect_positive": "undecided"}
        for name, value in wanted.items():
            if name in prompt.form.settings and getattr(settings, name) == value:
                raise ConfigError(
                    f"tier {tier!r}: {name} is {value}, and no tier before it looks for answers: put one with the "
                    "prompt answer-snippet before it, or set another value"
                )

    def _check_labels(self, config: Config) -> None:
        """Refuse a label that nobody gives: what it should lead to would silently never happen."""
        given = dict.fromkeys(label for tier in self.tiers for label in tier.judge.labels)
        for action in ("relabel", "drop", "remove", "drop_any"):
            for label in getattr(config.policy, action):
                if label not in given:
                    hint = "; what an abstention means says policy.abstained" if label == "abstained" else ""
                    raise ConfigError(
                        f"policy.{action}: no tier gives the label {label!r}; they give {', '.join(given)}{hint}"
                    )
        for tier in self.tiers:
            known = (*tier.judge.labels, "abstained")
            for label in tier.escalate.labels if tier.escalate else ():
                if label not in known:
                    raise ConfigError(f"tier {tier.name!r} cannot escalate {label!r}; it gives {', '.join(known)}")

    def first_calls(self, tier: Tier, instance: Instance) -> Sequence[Call]:
        """What a tier would ask first if every candidate came to it with nothing said about it."""
        case = self._case(instance)
        if case.kind is None or not case.candidates:
            return []
        try:
            return next(tier.judge.judge(case, case.kind, range(len(case.candidates))))
        except StopIteration:
            return []

    def _case(self, instance: Instance) -> Case:
        kind = self._criteria.kind(instance.subset)
        return Case(instance, kind, [() for _ in instance.negatives], [() for _ in instance.positives])

    def judge(self, instance: Instance) -> Asking[Case]:
        """All verdicts on each candidate, and on each positive where a judge is asked about them, tier by tier; none
        for an instance whose subset is left unjudged.
        """
        case = self._case(instance)
        candidates: list[int] = list(range(len(instance.negatives)))
        for tier, following in zip_longest(self.tiers, self.tiers[1:]):
            if case.kind is None or not candidates:
                break
            found = yield from tier.judge.judge(case, case.kind, candidates)
            for verdicts, said in ((case.candidates, found.candidates), (case.positives, found.positives)):
                for place, verdict in said.items():
                    verdicts[place] += (verdict,)
            candidates = tier.passes_on(candidates, found, following)
            if any(one.abstained == UNANSWERED for one in (*found.candidates.values(), *found.positives.values())):
                # The next tier may have to show all of the instance, or compare with these very positives.
                for place in candidates:
                    if found.candidates[place].abstained != UNANSWERED:
                        waiting = Verdict(following.name, following.judge.name, None, None, UNANSWERED)
                        case.candidates[place] += (waiting,)
                break
        return case


_OF_SOME_FORMS = frozenset[str]().union(*(form.settings for form in FORMS.values()))
"""Settings that only some forms of reply give a meaning to."""
