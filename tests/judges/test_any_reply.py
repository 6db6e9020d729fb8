"""Whatever a model replies, a judge speaks of what it was asked about, in its own words, or abstains."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relabel.forms import FORMS
from relabel.records import Call, Reply, Verdict
from relabel.testing import rlhn_reply
from tests.conftest import case, instance
from tests.judges.shared import judged

NUMBERS = st.lists(st.integers(-2, 6), max_size=5)
SOUND = st.one_of(
    st.builds(rlhn_reply, NUMBERS, NUMBERS),
    NUMBERS.map(lambda numbers: json.dumps({"ranking": numbers})),
    st.integers(-1, 5).map(lambda grade: json.dumps({"grade": grade})),
    st.sampled_from([None, "text", "the text of n1", "nothing"]).map(lambda span: json.dumps({"answer": span})),
    st.sampled_from(["better", "worse", "best"]).map(lambda v: json.dumps({"verdict": v, "evidence": ""})),
)


@st.composite
def replies(draw: st.DrawFn) -> Reply:
    """Sound ones, cut ones, and any text at all, with any reason for their end."""
    text = draw(SOUND | st.text())
    cut = draw(st.integers(0, len(text)) | st.just(len(text)))
    return Reply("ok", text[:cut], draw(st.sampled_from(["stop", "stop", "length", "content_filter", None])))


@pytest.mark.parametrize("prompt", FORMS)
@given(data=st.data())
def test_every_candidate_has_one_verdict_and_no_other_passage_has_any(prompt: str, data: st.DataObject) -> None:
    given_replies: dict[str, Reply | None] = {}

    def script(call: Call) -> Reply | None:
        key = call.request.key
        if key not in given_replies:
            given_replies[key] = None if call.optional else data.draw(replies())
        return given_replies[key]

    show = {"show": "passages"} if prompt == "answer-ranking" else {}
    found, _ = judged(prompt, case(instance(3)), script, **show)  # type: ignore[arg-type]
    assert sorted(found.candidates) == [0, 1, 2]
    assert sorted(found.positives) == ([0] if prompt == "answer-snippet" else [])
    for verdict in (*found.candidates.values(), *found.positives.values()):
        assert (verdict.label is None) != (verdict.abstained is None)
        assert verdict.label is None or verdict.label in FORMS[prompt].labels
        assert_grounded(verdict, given_replies)


def assert_grounded(verdict: Verdict, given_replies: dict[str, Reply | None]) -> None:
    """A label rests on a whole reply that was given."""
    if verdict.label is not None:
        assert verdict.key is not None
        reply = given_replies[verdict.key]
        assert reply is not None
        assert reply.finish_reason in ("stop", None)
        assert reply.text
