"""What the tests of all judges share: driving one with scripted replies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import orjson

from relabel.config import LLMJudgeSettings
from relabel.judges import Found, Retry, make_judge
from relabel.prompts import DEFAULT_KIND, load_prompt
from relabel.records import Call, Case, Reply, Verdict

Script = Callable[[Call], Reply | None]
UNPARSED = Reply("ok", "no idea", "stop")
CUT_OFF = Reply("ok", "<thinking> and so on", "length")
REFUSED = Reply("refused", error="context_length_exceeded")


def says(**said: Any) -> Reply:
    """A reply that is one JSON object."""
    return Reply("ok", orjson.dumps(said).decode(), "stop")


def user(call: Call) -> str:
    """The part of a prompt that shows the material."""
    return call.request.messages[1]["content"]


def judged(
    prompt: str, of: Case, script: Script, retry: Retry = frozenset(), **settings: Any
) -> tuple[Found, list[list[Call]]]:
    """All that a judge says, and the calls that it made, those of each round together."""
    given = LLMJudgeSettings(prompt=prompt, model="small", client="local", **settings)
    judge = make_judge("cheap", given, load_prompt(prompt), retry)
    asking = judge.judge(of, DEFAULT_KIND, range(len(of.candidates)))
    made: list[list[Call]] = []
    replies: Sequence[Reply | None] | None = None
    try:
        while True:
            calls = asking.send(replies)  # type: ignore[arg-type]
            made.append(list(calls))
            assert len(made) < 20, "the script answers optional calls without end"
            replies = [script(call) for call in calls]
    except StopIteration as finished:
        return finished.value, made


def in_order(found: dict[int, Verdict]) -> list[Verdict]:
    return [found[place] for place in sorted(found)]


def said(verdicts: Sequence[Verdict] | dict[int, Verdict]) -> list[str | None]:
    """Labels, or the reasons why there are none."""
    listed = in_order(verdicts) if isinstance(verdicts, dict) else verdicts
    return [verdict.label or verdict.abstained for verdict in listed]
