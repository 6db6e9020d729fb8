"""A judge asks by yielding calls; whoever drives it has the replies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from relabel.judges import Retry
from relabel.records import UNANSWERED, Call, Instance, Reply, Verdict
from relabel.testing import rlhn_reply
from tests.conftest import case, instance, passage
from tests.judges.shared import CUT_OFF, REFUSED, UNPARSED, Script, in_order, judged, said

FOUND = Reply("ok", rlhn_reply(better=[1]), "stop")


def drive(
    of: Instance, script: Script, retry: Retry = frozenset(), **settings: Any
) -> tuple[list[Verdict], list[Call]]:
    """All verdicts, in the candidates' order, and the calls that were made."""
    found, made = judged("rlhn", case(of), script, retry, **settings)
    return in_order(found.candidates), [call for calls in made for call in calls]


def scripted(*replies: Reply | None) -> Script:
    """These replies by attempt; later attempts have none."""
    return lambda call: replies[call.request.sample] if call.request.sample < len(replies) else None


def sent(calls: list[Call]) -> list[Call]:
    return [call for call in calls if not call.optional]


def test_one_reply_gives_every_candidate_its_verdict() -> None:
    verdicts, calls = drive(instance(3), lambda call: Reply("ok", rlhn_reply(better=[2], worse=[3]), "stop"))
    assert said(verdicts) == ["irrelevant", "better", "worse"]
    assert {verdict.key for verdict in verdicts} == {calls[0].request.key}
    assert {(verdict.tier, verdict.model) for verdict in verdicts} == {("cheap", "small")}


def test_an_abstention_is_asked_again_with_its_own_sample_seed_and_temperature() -> None:
    verdicts, calls = drive(instance(2), scripted(UNPARSED, FOUND), temperature=0.1, retry_temperature=0.7)
    assert said(verdicts) == ["better", "irrelevant"]
    first, second = (call.request for call in calls)
    assert (first.sample, first.sampling["temperature"], first.sampling.get("seed")) == (0, 0.1, None)
    assert (second.sample, second.sampling["temperature"], second.sampling["seed"]) == (1, 0.7, 1)
    assert first.key != second.key


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_no_more_attempts_are_sent_than_the_settings_say(retries: int) -> None:
    verdicts, calls = drive(instance(1), lambda call: None if call.optional else UNPARSED, retries=retries)
    assert said(verdicts) == ["no_verdict"]
    assert len(sent(calls)) == retries + 1


def test_a_cut_off_reply_is_asked_for_again_only_with_a_larger_limit() -> None:
    _, calls = drive(instance(1), lambda call: CUT_OFF, max_tokens=100)
    assert len(calls) == 1
    _, calls = drive(instance(1), lambda call: CUT_OFF, max_tokens=100, retry_max_tokens=400, retries=5)
    assert [call.request.sampling["max_tokens"] for call in calls] == [100, 400]


def test_a_refused_request_is_not_sent_again() -> None:
    verdicts, calls = drive(instance(2), scripted(REFUSED), retries=3)
    assert said(verdicts) == ["refused", "refused"]
    assert len(sent(calls)) == 1


@pytest.mark.parametrize(("reply", "retry"), [(UNPARSED, "abstained"), (REFUSED, "refused")])
def test_insisting_sends_exactly_one_attempt_more(reply: Reply, retry: Any) -> None:
    def script(call: Call) -> Reply | None:
        return None if call.optional else reply

    _, calls = drive(instance(1), script, frozenset({retry}), retries=0)
    assert len(sent(calls)) == 2
    _, calls = drive(instance(1), script, frozenset({"refused" if retry == "abstained" else "abstained"}), retries=0)
    assert len(sent(calls)) == 1


def test_a_chain_that_was_once_made_longer_is_read_to_its_end() -> None:
    verdicts, calls = drive(instance(1), scripted(UNPARSED, UNPARSED, UNPARSED, FOUND), retries=0)
    assert said(verdicts) == ["better"]
    assert len(sent(calls)) == 1


def test_a_missing_reply_leaves_its_candidates_unanswered() -> None:
    verdicts, _ = drive(instance(2), lambda call: None)
    assert said(verdicts) == [UNANSWERED, UNANSWERED]


@pytest.mark.parametrize(("candidates", "sizes"), [(3, [3]), (30, [30]), (31, [16, 15]), (61, [21, 21, 19])])
def test_a_long_list_is_split_evenly_and_every_part_shows_all_positives(candidates: int, sizes: list[int]) -> None:
    def script(call: Call) -> Reply:
        user = call.request.messages[1]["content"]
        assert "the text of p1" in user
        return Reply("ok", rlhn_reply(better=[user.count("\nDoc (")]), "stop")

    verdicts, calls = drive(instance(candidates), script)
    assert [call.request.messages[1]["content"].count("\nDoc (") for call in calls] == sizes
    found = [place for place, verdict in enumerate(verdicts) if verdict.label == "better"]
    assert found == [sum(sizes[: n + 1]) - 1 for n in range(len(sizes))]


def test_one_part_that_abstains_leaves_the_others_their_verdicts() -> None:
    def script(call: Call) -> Reply | None:
        if call.optional:
            return None
        return UNPARSED if "text of n1\n" in call.request.messages[1]["content"] else FOUND

    verdicts, _ = drive(instance(31), script, retries=0)
    assert said(verdicts[:16]) == ["no_verdict"] * 16
    assert said(verdicts[16:]) == ["better", *["irrelevant"] * 14]


def test_a_prompt_is_split_where_the_context_is_too_small_and_every_one_fits() -> None:
    texts = [passage(f"n{n}", f"{n} " + "word " * 600) for n in range(4)]
    verdicts, calls = drive(instance(texts), lambda call: FOUND, context=8_000, max_tokens=1_000)
    assert len(calls) > 1
    assert all(sum(len(m["content"].encode()) for m in call.request.messages) <= 14_000 for call in calls)
    assert all(verdict.label for verdict in verdicts)


def test_a_candidate_that_is_too_long_is_shown_by_itself_in_windows_and_the_best_stands_for_it() -> None:
    huge = passage("huge", "word " * 4_000 + "treasure " + "word " * 4_000)

    def script(call: Call) -> Reply:
        treasure = "treasure" in call.request.messages[1]["content"]
        return Reply("ok", rlhn_reply(better=[1]) if treasure else rlhn_reply(), "stop")

    (small, long), calls = drive(instance([passage("small"), huge]), script, context=8_000, max_tokens=1_000)
    assert said([small, long]) == ["irrelevant", "better"]
    assert len(calls) > 4
    assert all("the text of p1" in call.request.messages[1]["content"] for call in calls)
    assert long.offset is not None
    assert 0 < long.offset <= huge.text.index("treasure")


def test_what_has_no_room_beside_the_positives_is_said_to_be_too_long() -> None:
    of = replace(instance(2), positives=(passage("p1", "word " * 9_000),))
    verdicts, calls = drive(of, lambda call: FOUND, context=8_000, max_tokens=1_000)
    assert (said(verdicts), calls) == (["too_long"] * 2, [])


def test_a_candidate_without_text_is_not_shown() -> None:
    verdicts, calls = drive(instance([passage("a", "one"), passage("b", " "), passage("c", "two")]), lambda call: FOUND)
    assert said(verdicts) == ["better", "empty_text", "irrelevant"]
    assert calls[0].request.messages[1]["content"].count("\nDoc (") == 2


def test_what_shapes_the_reply_is_in_the_key_and_nothing_else_is() -> None:
    def key(**settings: Any) -> str:
        return drive(instance(1), lambda call: FOUND, **settings)[1][0].request.key

    plain = key()
    assert plain == key(retries=5) == key(max_candidates=3) == key(retry_temperature=1.0)
    changed = [key(temperature=1.0), key(max_tokens=5), key(seed=1), key(model_revision="r"), key(extra_body={"a": 1})]
    assert len({plain, *changed}) == 6
