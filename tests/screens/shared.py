"""What the tests of all screens share: driving one, its model's replies scripted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from relabel.config import TierSettings
from relabel.records import Call, Case, Reply, Verdict
from relabel.screens import make_screen

Script = Callable[[Call], Reply | None]


def screened(of: Case, script: Script | None = None, **settings: Any) -> tuple[list[Verdict], list[Call]]:
    """The verdicts on all candidates, in order, and the calls that were made for them."""
    judge: Any = TierSettings.model_validate({"name": "tier", "judge": settings}).judge
    asking = make_screen("tier", judge).judge(of, "", range(len(of.candidates)))
    made: list[Call] = []
    replies: Sequence[Reply | None] | None = None
    try:
        while True:
            calls = asking.send(replies)  # type: ignore[arg-type]
            assert script is not None, "a screen of words asks nobody"
            made += calls
            replies = [script(call) for call in calls]
    except StopIteration as finished:
        found: dict[int, Verdict] = finished.value.candidates
        return [found[place] for place in range(len(of.candidates))], made
