"""Verdicts -> decisions. Pure rules, each a few lines, tried in order; the first that speaks decides.

For a candidate: unanswered, unjudged, what any tier's label leads to, undecided, then what the label of its final
verdict (that of the last tier that judged it) leads to: relabel, drop, remove, and else no-objection. Then equal
passages are made to fare alike: duplicate-of-positive, duplicate-of-dropped.
For an instance: false-negatives-remove, too-many-false-negatives, too-few-negatives, format-needs-negatives, else keep.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from relabel.config import PolicySettings
from relabel.records import UNANSWERED, Action, Case, Decision, Instance, Outcome, Verdicts

CandidateRule = Callable[[PolicySettings, Verdicts], Decision | None]


def unanswered(policy: PolicySettings, verdicts: Verdicts) -> Decision | None:
    """A reply is missing: the candidate stays where it is for now. Only `export --partial` shows this."""
    if verdicts and verdicts[-1].abstained == UNANSWERED:
        return Decision("keep", "unanswered", f"no reply yet from tier {verdicts[-1].tier}", verdicts)
    return None


def unjudged(policy: PolicySettings, verdicts: Verdicts) -> Decision | None:
    """No judge was asked, because the subset is left alone."""
    return None if verdicts else Decision("keep", "unjudged", "the subset is left unjudged")


def by_any_label(policy: PolicySettings, verdicts: Verdicts) -> Decision | None:
    """What any tier has found is enough to drop the candidate, whatever a later one says or does not say."""
    for verdict in verdicts:
        if verdict.label in policy.drop_any:
            return Decision("drop", "false-negative", f"{verdict.tier} says {verdict.label}", verdicts)
    return None


def undecided(policy: PolicySettings, verdicts: Verdicts) -> Decision | None:
    """The last judge abstained: what that means is a setting."""
    last = verdicts[-1]
    if last.abstained is None:
        return None
    return Decision(policy.abstained, "undecided", f"{last.tier} abstained: {last.abstained}", verdicts)


def by_label(policy: PolicySettings, verdicts: Verdicts) -> Decision | None:
    """What the final verdict's label leads to."""
    last = verdicts[-1]
    actions: tuple[tuple[list[str], Action, str], ...] = (
        (policy.relabel, "relabel", "false-negative"),
        (policy.drop, "drop", "false-negative"),
        (policy.remove, "drop", "false-negative-removes-instance"),
    )
    for labels, action, rule in actions:
        if last.label in labels:
            return Decision(action, rule, f"{last.tier} says {last.label}", verdicts)
    return None


def no_objection(policy: PolicySettings, verdicts: Verdicts) -> Decision | None:
    """Nothing speaks against the candidate."""
    return Decision("keep", "no-objection", f"{verdicts[-1].tier} says {verdicts[-1].label}", verdicts)


CANDIDATE_RULES: tuple[CandidateRule, ...] = (
    unanswered,
    unjudged,
    by_any_label,
    undecided,
    by_label,
    no_objection,
)


def decide(policy: PolicySettings, case: Case, needs_negatives: bool = False) -> Outcome:
    """The outcome of an instance. `needs_negatives` says that its format cannot hold one without negatives."""
    cache: dict[Verdicts, Decision] = {}
    decisions = []
    for said in case.candidates:
        decision = cache.get(said)
        if decision is None:
            decision = cache[said] = _candidate(policy, said)
        decisions.append(decision)
    if any(case.candidates):  # what is left unjudged is left alone
        decisions = _alike(case.instance, decisions)
    outcome = Outcome(case.instance, "keep", "keep", tuple(decisions), tuple(case.positives))
    rule = _instance_rule(policy, outcome, needs_negatives)
    return replace(outcome, action="remove", rule=rule) if rule else outcome


def _alike(instance: Instance, decisions: list[Decision]) -> list[Decision]:
    """Equal passages fare alike: none is twice among the positives, on both sides, or dropped here and kept there."""
    passages = (*instance.positives, *instance.negatives)
    if len({passage.text for passage in passages}) == len(passages):
        return decisions
    positives = {passage.identity for passage in instance.positives}
    moving: dict[tuple[str, str], int] = {}
    dropped = set()
    for place, decision in enumerate(decisions):
        if decision.action == "relabel":
            moving.setdefault(instance.negatives[place].identity, place)
        elif decision.action == "drop":
            dropped.add(instance.negatives[place].identity)
    for place, candidate in enumerate(instance.negatives):
        identity = candidate.identity
        if identity in positives or moving.get(identity, place) != place:
            rule, reason = "duplicate-of-positive", "it is a positive, too"
        elif identity in dropped and identity not in moving and decisions[place].action == "keep":
            rule, reason = "duplicate-of-dropped", "the same passage is dropped"
        else:
            continue
        decisions[place] = replace(decisions[place], action="drop", rule=rule, reason=reason)
    return decisions


def _candidate(policy: PolicySettings, verdicts: Verdicts) -> Decision:
    spoken = (decision for rule in CANDIDATE_RULES if (decision := rule(policy, verdicts)) is not None)
    return next(spoken)


def _instance_rule(policy: PolicySettings, outcome: Outcome, needs_negatives: bool) -> str | None:
    """Which rule removes the instance, if any."""
    rules = [decision.rule for decision in outcome.decisions]
    if "false-negative-removes-instance" in rules:
        return "false-negatives-remove"
    found = rules.count("false-negative")
    if policy.max_false_negatives is not None and found > policy.max_false_negatives:
        return "too-many-false-negatives"
    kept = len(outcome.places("keep"))
    if kept < len(rules) and kept < policy.min_negatives and policy.on_too_few == "remove":
        return "too-few-negatives"
    return "format-needs-negatives" if kept == 0 and needs_negatives else None
