"""The rules as a truth table."""

from __future__ import annotations

from typing import Any

import pytest

from relabel.config import PolicySettings
from relabel.policy import decide
from relabel.records import UNANSWERED, Outcome, Verdict
from tests.conftest import case, instance, passage

RLHN = PolicySettings(relabel=["better", "worse"], max_false_negatives=8)


def verdict(label: str | None, abstained: str | None = None, tier: str = "strong") -> Verdict:
    return Verdict(tier, "rlhn", "large", label, abstained)


def decided(policy: PolicySettings, *labels: str | None, **kwargs: Any) -> Outcome:
    """One candidate for each label; None stands for an abstention."""
    said = [(verdict(label, None if label else "no_verdict"),) for label in labels]
    return decide(policy, case(instance(len(labels)), said), **kwargs)


def actions(outcome: Outcome) -> list[str]:
    return [decision.action for decision in outcome.decisions]


@pytest.mark.parametrize(
    ("policy", "label", "action", "instance_action"),
    [
        (RLHN, "better", "relabel", "keep"),
        (RLHN, "worse", "relabel", "keep"),
        (RLHN, "irrelevant", "keep", "keep"),
        (PolicySettings(relabel=["better"]), "worse", "keep", "keep"),
        (PolicySettings(relabel=["better"], drop=["worse"]), "worse", "drop", "keep"),
        (PolicySettings(drop=["better", "worse"]), "better", "drop", "keep"),
        (PolicySettings(remove=["better", "worse"]), "better", "drop", "remove"),
        (PolicySettings(remove=["better"]), "worse", "keep", "keep"),
        (PolicySettings(), "better", "keep", "keep"),
    ],
)
def test_a_label_leads_to_its_action(policy: PolicySettings, label: str, action: str, instance_action: str) -> None:
    outcome = decided(policy, label, "irrelevant")
    assert (actions(outcome)[0], outcome.action) == (action, instance_action)


def test_an_abstention_is_kept_and_marked_undecided_unless_the_policy_drops_it() -> None:
    assert [(d.action, d.rule) for d in decided(RLHN, None).decisions] == [("keep", "undecided")]
    dropping = PolicySettings(relabel=["better"], abstained="drop")
    assert [(d.action, d.rule) for d in decided(dropping, None).decisions] == [("drop", "undecided")]


def test_what_any_tier_has_found_may_be_enough_to_drop() -> None:
    policy = PolicySettings(drop_any=["better"])
    cheap = verdict("better", tier="cheap")
    said = [(cheap, verdict("irrelevant")), (cheap, verdict(None, "length")), (cheap, verdict(None, UNANSWERED))]
    outcome = decide(policy, case(instance(4), [*said, (verdict("worse"),)]))
    assert [(d.action, d.rule) for d in outcome.decisions] == [
        ("drop", "false-negative"),
        ("drop", "false-negative"),
        ("keep", "unanswered"),
        ("keep", "no-objection"),
    ]


def test_the_last_tier_stands_alone() -> None:
    cheap = verdict("better", tier="cheap")
    upheld, overruled, silent = (
        (cheap, verdict("worse")),
        (cheap, verdict("irrelevant")),
        (cheap, verdict(None, "length")),
    )
    outcome = decide(RLHN, case(instance(3), [upheld, overruled, silent]))
    assert [(d.action, d.rule) for d in outcome.decisions] == [
        ("relabel", "false-negative"),
        ("keep", "no-objection"),
        ("keep", "undecided"),
    ]


def test_what_no_judge_saw_is_unjudged_and_what_waits_for_a_reply_is_unanswered() -> None:
    outcome = decide(RLHN, case(instance(2), [(), (verdict(None, UNANSWERED),)]))
    assert [d.rule for d in outcome.decisions] == ["unjudged", "unanswered"]


@pytest.mark.parametrize(("found", "removed"), [(8, False), (9, True)])
def test_an_instance_with_more_than_eight_false_negatives_is_removed(found: int, removed: bool) -> None:
    outcome = decided(RLHN, *["worse"] * found, *["irrelevant"] * (15 - found))
    assert (outcome.action == "remove") is removed
    assert actions(outcome).count("relabel") == found
    assert outcome.rule == ("too-many-false-negatives" if removed else "keep")


@pytest.mark.parametrize(
    ("minimum", "on_too_few", "kept", "removed"),
    [
        (0, "keep", 0, False),
        (1, "remove", 0, True),
        (1, "keep", 0, False),
        (3, "remove", 2, True),
        (2, "remove", 2, False),
    ],
)
def test_an_instance_that_runs_out_of_negatives_follows_the_settings(
    minimum: int, on_too_few: Any, kept: int, removed: bool
) -> None:
    policy = PolicySettings(relabel=["better"], min_negatives=minimum, on_too_few=on_too_few)
    outcome = decided(policy, "better", *["irrelevant"] * kept)
    assert (outcome.action == "remove") is removed


def test_an_instance_that_never_had_enough_negatives_is_left_alone() -> None:
    policy = PolicySettings(relabel=["better"], min_negatives=5, on_too_few="remove")
    assert decided(policy, "irrelevant").action == "keep"
    assert decide(policy, case(instance(0))).action == "keep"


def test_a_format_that_needs_negatives_loses_the_instance_without() -> None:
    assert decided(RLHN, "better", needs_negatives=True).rule == "format-needs-negatives"
    assert decided(RLHN, needs_negatives=True).rule == "format-needs-negatives"
    assert decided(RLHN, "better", "irrelevant", needs_negatives=True).action == "keep"


def test_an_exact_duplicate_of_a_positive_is_dropped_whatever_the_judges_say() -> None:
    twin = passage("other-id", "the text of p1")
    for said in ((verdict("better"),), (verdict("irrelevant"),), (verdict(None, "length"),)):
        outcome = decide(RLHN, case(instance([twin]), [said]))
        assert [(d.action, d.rule) for d in outcome.decisions] == [("drop", "duplicate-of-positive")]
        assert outcome.action == "keep"


def test_what_is_left_unjudged_is_left_alone_even_if_it_is_a_duplicate() -> None:
    twin = passage("other-id", "the text of p1")
    assert [d.rule for d in decide(RLHN, case(instance([twin]))).decisions] == ["unjudged"]


def test_of_equal_candidates_none_stays_when_one_is_dropped() -> None:
    policy = PolicySettings(drop=["better"])
    twins = [passage("a", "same"), passage("b", "other"), passage("c", "same")]
    outcome = decide(
        policy, case(instance(twins), [(verdict("better"),), (verdict("irrelevant"),), (verdict("irrelevant"),)])
    )
    assert [(d.action, d.rule) for d in outcome.decisions] == [
        ("drop", "false-negative"),
        ("keep", "no-objection"),
        ("drop", "duplicate-of-dropped"),
    ]


def test_of_equal_candidates_the_first_relabelled_moves_and_the_others_go() -> None:
    twins = [passage("a", "same"), passage("b", "same"), passage("c", "same")]
    said = [(verdict("irrelevant"),), (verdict("better"),), (verdict("worse"),)]
    assert actions(decide(RLHN, case(instance(twins), said))) == ["drop", "relabel", "drop"]


def test_duplicates_do_not_count_towards_the_limit_of_false_negatives() -> None:
    twins = [passage(f"n{n}", "same") for n in range(9)]
    assert decide(RLHN, case(instance(twins), [(verdict("better"),)] * 9)).action == "keep"


def test_a_passage_with_the_same_text_under_another_title_is_another_passage() -> None:
    namesake = passage("x", "the text of p1", title="elsewhere")
    assert actions(decide(RLHN, case(instance([namesake]), [(verdict("irrelevant"),)]))) == ["keep"]
