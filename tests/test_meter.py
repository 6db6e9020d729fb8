"""Prompt tokens that began an earlier prompt of the same query are those that a server may have cached."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from relabel.meter import Meter, _shared
from relabel.records import Call, Reply, Request, Usage


def call(text: str, model: str = "m", tier: str = "t") -> Call:
    return Call(
        Request(model, ({"role": "system", "content": "S" * 50}, {"role": "user", "content": text}), {}), tier, "c", "p"
    )


def answered(prompt: int = 100, completion: int = 7) -> Reply:
    return Reply("ok", "x", "stop", usage=Usage(prompt, prompt // 2, completion))


def test_the_share_is_that_of_the_longest_beginning_sent_before() -> None:
    meter = Meter()
    meter.begin()
    meter.add([call("a" * 50), call("a" * 25 + "b" * 25), call("c" * 50)], [answered()] * 3)
    assert meter.as_dict("t") == {
        "calls": 3,
        "prompt_tokens": 300,
        "cached_tokens": 150,
        "completion_tokens": 21,
        "prefix_share": round((0 + 0.75 + 0.5) / 3, 4),
    }


def test_another_query_or_another_model_begins_anew() -> None:
    meter = Meter()
    for _ in range(2):
        meter.begin()
        meter.add([call("same", model=f"m{n}") for n in range(2)], [answered()] * 2)
    assert meter.as_dict("t")["prefix_share"] == 0
    assert meter.tiers["t"].calls == 4


def test_what_is_sent_once_counts_once_and_what_has_no_reply_not_at_all() -> None:
    meter = Meter()
    meter.begin()
    meter.add([call("x"), call("x"), call("y")], [answered(), answered(), None])
    assert meter.as_dict("t")["calls"] == 1


def test_without_token_counts_there_is_no_share() -> None:
    meter = Meter()
    meter.begin()
    meter.add([call("x")], [Reply("ok", "x", "stop")])
    assert meter.as_dict("t")["prefix_share"] is None
    assert meter.as_dict("never asked")["calls"] == 0


@given(st.text("ab", max_size=12), st.lists(st.text("ab", max_size=12), max_size=5))
def test_the_shared_beginning_is_the_longest_there_is(prompt: str, before: list[str]) -> None:
    def common(one: str) -> int:
        return next(
            (at for at, (a, b) in enumerate(zip(prompt, one, strict=False)) if a != b), min(len(prompt), len(one))
        )

    assert _shared(prompt, before) == max(map(common, before), default=0)
    assert _shared(prompt, [prompt]) == len(prompt)
