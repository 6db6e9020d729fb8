"""The texts of replies, well-formed and not."""

from __future__ import annotations

from collections.abc import Iterable

import orjson

from relabel.testing.server import Answer


def rlhn_reply(better: Iterable[int] = (), worse: Iterable[int] = ()) -> str:
    """A well-formed reply to the rlhn prompt, naming documents by their numbers."""
    lists = [", ".join(f"Doc ({number})" for number in numbers) for numbers in (better, worse)]
    return (
        "<thinking>\nEach document in turn.\n</thinking>\n<preference>\nEach relevant one.\n</preference>\n"
        f"<verdict>\n<better> Better than or equal to the ground truth: [{lists[0]}] </better>\n"
        f"<worse> Relevant, but worse than the ground truth: [{lists[1]}] </worse>\n</verdict>"
    )


def json_reply(**said: object) -> str:
    """A reply that is one JSON object."""
    return orjson.dumps(said).decode()


def spoilt(right: str, way: int) -> Answer:
    """A reply that must not be understood, made from a right one in one of several ways; any `way` is one of them."""
    ways = (
        Answer(right[: len(right) // 2]),
        Answer(right, finish_reason="length"),
        Answer(right, finish_reason="content_filter"),
        Answer("I am sorry, but I cannot help with that."),
        Answer(f"Well. {right} Or perhaps not."),
        Answer(right + right),
        Answer(""),
        Answer(right.replace('"', "'").replace("<", "(")),
        Answer(f"<think>I should say {right}"),
        Answer("", message={"refusal": "I will not judge this."}),
    )
    return ways[way % len(ways)]
