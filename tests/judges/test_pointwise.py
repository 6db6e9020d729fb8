"""One question for each passage: its answer, its grade, or how it compares with the positives."""

from __future__ import annotations

import re
from functools import partial
from math import log
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relabel.cascade import Cascade
from relabel.errors import ConfigError
from relabel.judges.windows import split
from relabel.records import UNANSWERED, Call, Case, Reply, Token, Verdict
from tests.conftest import case, config, instance, passage
from tests.judges.shared import UNPARSED, judged, said, says, user


def shown(call: Call) -> str:
    """The text of the passage that a prompt asks about."""
    texts: list[str] = re.findall(r"<passage>\n(.*?)\n</passage>", user(call), re.DOTALL)
    return texts[-1]


def unparsed(call: Call) -> Reply | None:
    """No attempt is ever understood."""
    return None if call.optional else UNPARSED


def quotes(call: Call) -> Reply:
    """The whole passage is the answer."""
    return says(answer=shown(call))


class TestSnippets:
    def test_every_candidate_and_every_positive_is_asked_about_by_itself(self) -> None:
        found, (calls,) = judged("answer-snippet", case(instance(3)), quotes)
        assert [shown(call) for call in calls] == [f"the text of {name}" for name in ("n1", "n2", "n3", "p1")]
        assert said(found.candidates) == ["answer"] * 3
        assert said(found.positives) == ["answer"]

    def test_evidence_is_recorded_with_its_place(self) -> None:
        found, _ = judged("answer-snippet", case(instance(1)), lambda call: says(answer="text of"))
        verdict = found.candidates[0]
        assert (verdict.label, verdict.evidence, verdict.offset) == ("answer", "text of", 4)

    def test_a_span_that_is_not_in_the_passage_abstains_and_is_asked_again(self) -> None:
        def script(call: Call) -> Reply | None:
            return None if call.optional else says(answer="I know better")

        found, calls = judged("answer-snippet", case(instance(1)), script, retries=1)
        assert said(found.candidates) == ["ungrounded"]
        assert (found.candidates[0].evidence, found.candidates[0].found) == (None, "I know better")
        assert [call.request.sample for round_ in calls for call in round_ if not call.optional] == [0, 0, 1, 1]

    def test_a_passage_without_text_is_not_asked_about(self) -> None:
        found, (calls,) = judged("answer-snippet", case(instance([passage("a", " "), passage("b", "b")])), quotes)
        assert said(found.candidates) == ["empty_text", "answer"]
        assert len(calls) == 2

    def test_equal_passages_are_one_question(self) -> None:
        twins = instance([passage("a", "same"), passage("b", "same"), passage("c", "Same")])
        _, (calls,) = judged("answer-snippet", case(twins), quotes)
        assert len({call.request.key for call in calls}) == 3


class TestPrompts:
    def test_the_calls_of_a_query_differ_only_at_their_end(self) -> None:
        _, (calls,) = judged("versus-positive", case(instance(5)), lambda call: says(verdict="worse", evidence=""))
        prompts = [user(call) for call in calls]
        start = prompts[0].index("Doc (1)")
        assert {prompt[:start] for prompt in prompts} == {prompts[0][:start]}
        assert "the text of p1" in prompts[0][:start]
        assert len({call.request.messages[0]["content"] for call in calls}) == 1

    def test_the_schema_is_part_of_the_request_and_of_its_key(self) -> None:
        _, ((call,),) = judged("graded", case(instance(1)), lambda call: says(grade=1))
        assert call.request.reply_schema is not None
        assert call.request.reply_schema["name"] == "graded"

    def test_a_grade_is_asked_of_candidates_alone(self) -> None:
        found, (calls,) = judged("graded", case(instance(2)), lambda call: says(grade=2))
        assert (len(calls), said(found.candidates), found.positives) == (2, ["2", "2"], {})


class TestSuspectPositives:
    def snippets(self, *labels: str | None) -> Case:
        """An instance with so many positives, and what was said of them."""
        of = instance(2)
        several = [passage(f"p{n}") for n in range(1, len(labels) + 1)]
        verdicts = [
            Verdict("s", "j", "m", label, None if label else "ungrounded", evidence="x" if label == "answer" else None)
            for label in labels
        ]
        from dataclasses import replace

        return case(replace(of, positives=tuple(several)), positives=[(verdict,) for verdict in verdicts])

    def compared(self, of: Case, **settings: Any) -> tuple[list[str | None], list[str]]:
        found, rounds = judged("versus-positive", of, lambda call: says(verdict="worse", evidence=""), **settings)
        return said(found.candidates), [user(call) for calls in rounds for call in calls]

    def test_are_a_yardstick_where_they_are_trusted(self) -> None:
        labels, prompts = self.compared(self.snippets("no_answer"), suspect_positive="rank")
        assert labels == ["worse", "worse"]
        assert "the text of p1" in prompts[0]

    def test_leave_the_candidates_undecided_where_none_is_trusted(self) -> None:
        labels, prompts = self.compared(self.snippets("no_answer", None), suspect_positive="undecided")
        assert labels == ["unsure_positive"] * 2
        assert prompts == []
        assert self.compared(self.snippets("no_answer"), suspect_positive="undecided")[0] == ["suspect_positive"] * 2

    def test_are_left_out_where_another_positive_holds_an_answer(self) -> None:
        labels, prompts = self.compared(self.snippets("no_answer", "answer"), suspect_positive="undecided")
        assert labels == ["worse", "worse"]
        assert "the text of p2" in prompts[0]
        assert "the text of p1" not in prompts[0]

    def test_are_unknown_where_nobody_looked_for_answers(self) -> None:
        assert self.compared(case(instance(2)), suspect_positive="undecided")[0] == ["worse", "worse"]


class TestConfidence:
    def test_asks_for_as_many_samples_as_wanted_each_under_its_own_key(self) -> None:
        def script(call: Call) -> Reply:
            return says(grade=3 if call.request.sample in (0, 2000) else 2)

        found, rounds = judged("graded", case(instance(1)), script, samples=3, temperature=0.7)
        assert len(rounds) == 1
        verdict = found.candidates[0]
        assert (verdict.label, verdict.score, verdict.score_kind) == ("3", 0.666667, "samples")
        assert verdict.votes == {"2": 1, "3": 2}
        requests = [call.request for calls in rounds for call in calls]
        assert [request.sample for request in requests] == [0, 1000, 2000]
        assert [request.sampling.get("seed") for request in requests] == [None, 1000, 2000]
        assert verdict.keys == tuple(request.key for request in requests)
        assert verdict.key == requests[0].key

    def test_asks_just_once_where_the_tokens_tell(self) -> None:
        tokens = (Token('{"grade":', 0.0), Token("3", log(0.9), (("3", log(0.9)), ("2", log(0.1)))), Token("}", 0.0))
        reply = Reply("ok", '{"grade":3}', "stop", logprobs=tokens)
        found, rounds = judged(
            "graded", case(instance(1)), lambda call: reply, samples=5, temperature=0.7, top_logprobs=5
        )
        verdict = found.candidates[0]
        assert (verdict.score, verdict.score_kind, verdict.outside) == (0.9, "logprobs", 0.0)
        (call,) = (call for calls in rounds for call in calls)
        assert (call.request.sampling["logprobs"], call.request.sampling["top_logprobs"]) == (True, 5)

    def test_one_reply_without_probabilities_measures_nothing(self) -> None:
        found, _ = judged("graded", case(instance(1)), lambda call: says(grade=1))
        assert (found.candidates[0].score, found.candidates[0].score_kind) == (None, None)

    @pytest.mark.parametrize(
        ("grades", "label"),
        [([3, 3, 2, 2], "no_majority"), ([3, None, None, 3], "no_majority"), ([3, None, None, None], "malformed")],
    )
    def test_without_a_majority_there_is_no_verdict(self, grades: list[int | None], label: str) -> None:
        def script(call: Call) -> Reply | None:
            grade = grades[call.request.sample // 1000]
            return None if call.optional else UNPARSED if grade is None else says(grade=grade)

        found, _ = judged("graded", case(instance(1)), script, samples=4, temperature=1.0, retries=0)
        assert said(found.candidates) == [label]
        assert sum((found.candidates[0].votes or {"malformed": 4}).values()) == 4

    def test_a_missing_sample_leaves_the_candidate_unanswered(self) -> None:
        found, _ = judged(
            "graded",
            case(instance(1)),
            lambda call: None if call.request.sample else says(grade=1),
            samples=3,
            temperature=1,
        )
        assert said(found.candidates) == [UNANSWERED]

    def test_more_samples_later_ask_only_for_those_that_are_missing(self) -> None:
        def keys(**settings: Any) -> set[str]:
            _, rounds = judged("graded", case(instance(1)), unparsed, temperature=1, **settings)
            return {call.request.key for calls in rounds for call in calls if not call.optional}

        assert keys(samples=2) < keys(samples=4)


class TestLongPassages:
    SMALL: ClassVar[dict[str, Any]] = {"context": 1_500, "max_tokens": 200}

    def long(self, *words: str) -> Case:
        filler = " filler words that say nothing at all " * 25
        return case(instance([passage("long", filler.join(["", *words, ""]))]))

    def test_are_judged_in_windows_and_the_best_stands_for_the_passage(self) -> None:
        def script(call: Call) -> Reply:
            return says(grade=3 if "treasure" in shown(call) else 1)

        of = self.long("treasure", "trash", "trifles")
        found, (calls,) = judged("graded", of, script, **self.SMALL)
        verdict, text = found.candidates[0], of.instance.negatives[0].text
        assert len(calls) > 2
        assert verdict.label == "3"
        assert verdict.offset is not None
        assert verdict.score is None
        assert "treasure" in text[verdict.offset : verdict.offset + len(shown(calls[0])) + 200]
        assert verdict.keys == tuple(call.request.key for call in calls)

    def test_are_as_sure_as_the_surest_that_finds_all_or_the_least_sure_that_finds_less(self) -> None:
        def script(grade: int, call: Call) -> Reply:
            share = 0.9 if "trash" in shown(call) else 0.6
            text = f'{{"grade":{grade}}}'
            tokens = (Token('{"grade":', 0.0), Token(str(grade), log(share), (("x", log(1 - share)), ("0", log(0.05)))))
            return Reply("ok", text, "stop", logprobs=(*tokens, Token("}", 0.0)))

        of = self.long("trash", "more", "and more")
        surest, least = (
            judged("graded", of, partial(script, grade), top_logprobs=5, **self.SMALL)[0].candidates[0]
            for grade in (3, 1)
        )
        assert (surest.score or 0) > 0.94 > 0.93 > (least.score or 1)

    def test_evidence_has_its_place_in_the_whole_passage(self) -> None:
        def script(call: Call) -> Reply:
            return says(answer="gold here" if "gold here" in shown(call) else None)

        of = self.long("trash", "gold here", "trifles")
        verdict = judged("answer-snippet", of, script, **self.SMALL)[0].candidates[0]
        assert (verdict.label, verdict.offset) == ("answer", of.instance.negatives[0].text.index("gold here"))

    def test_a_window_that_says_nothing_leaves_the_passage_undecided_unless_the_best_is_found(self) -> None:
        for top, label in ((3, "3"), (2, "malformed")):
            script = partial(self.graded_but_for_trash, top)
            found, _ = judged("graded", self.long("trash", "more"), script, retries=0, **self.SMALL)
            assert said(found.candidates) == [label]

    def graded_but_for_trash(self, grade: int, call: Call) -> Reply | None:
        return unparsed(call) if "trash" in shown(call) else says(grade=grade)

    def test_wait_as_long_as_one_window_does(self) -> None:
        def script(call: Call) -> Reply | None:
            return None if "trash" in shown(call) else says(grade=3)

        found, _ = judged("graded", self.long("trash", "more"), script, **self.SMALL)
        assert said(found.candidates) == [UNANSWERED]

    def test_what_has_no_room_beside_the_rest_is_said_to_be_too_long(self) -> None:
        of = case(instance([passage("x", "short", title="endless title " * 300)]))
        found, rounds = judged("graded", of, lambda call: says(grade=1), **self.SMALL)
        assert said(found.candidates) == ["too_long"]
        assert not any(rounds)

    def test_a_context_without_room_for_the_prompts_own_words_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="the prompt's own words take"):
            judged("graded", case(instance(1)), unparsed, context=600, max_tokens=500)

    @given(st.text(min_size=1, max_size=400), st.integers(8, 60))
    def test_windows_hold_every_letter_and_overlap(self, text: str, room: int) -> None:
        windows = split(text, room, lambda part: len(part.encode()))
        assert all(text[start : start + len(part)] == part for start, part in windows)
        assert all(len(part.encode()) <= room for _, part in windows)
        ends = [start + len(part) for start, part in windows]
        assert windows[0][0] == 0
        assert ends[-1] == len(text)
        for (start, _), end in zip(windows[1:], ends, strict=False):
            assert start <= end


def test_a_setting_that_means_nothing_to_a_form_is_refused_by_the_cascade() -> None:
    given = config("x.jsonl")
    tier = given.cascade[1]
    for name, value, prompt in (("orders", 3, "graded"), ("samples", 2, "answer-ranking"), ("top_logprobs", 1, "rlhn")):
        judge = tier.judge.model_copy(update={"prompt": prompt, name: value})
        changed = given.model_copy(update={"cascade": [tier.model_copy(update={"judge": judge})]})
        with pytest.raises(ConfigError, match=f"'{name}' means nothing to a judge of form '{prompt}'"):
            Cascade(changed)
