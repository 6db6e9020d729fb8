"""What is nearly right: a sound value with one place changed, sound bytes with a few of them changed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

quick = settings(deadline=None, max_examples=40)

NESTED: Any = None
for _ in range(300):
    NESTED = [NESTED]

ODD = st.sampled_from(
    [
        *(None, True, False, 0, 1, -1, 2**63, 2**64, 10**30, 10**400, 0.0, 1.0, 1.5, float("nan"), float("inf")),
        *("", " ", "\0", "\ud800", "\udfff\ud800", "é", "\u2028", "\x85", "\x1c", "\r", "\n", "x" * 3000, "NaN", "1"),
        *([], {}, [[]], [None], ["text", "text"], [1, 0], {"text": "t"}, {"": None}, [{"docid": "d", "text": "t"}]),
        NESTED,
    ]
)


def places(value: Any, depth: int = 8) -> list[tuple[Any, ...]]:
    """The path of every place in a value, that of the whole first, down to a depth."""
    found: list[tuple[Any, ...]] = [()]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items if depth else ():
        found += [(key, *path) for path in places(inner, depth - 1)]
    return found


@st.composite
def mutated(draw: st.DrawFn, value: Any, odd: st.SearchStrategy[Any] = ODD, most: int = 1) -> Any:
    """A copy with up to `most` places replaced by something odd, taken out, doubled, or renamed."""
    changed = copy.deepcopy(value)
    for _ in range(draw(st.integers(0, most))):
        path = draw(st.sampled_from(places(changed)))
        if not path:
            return draw(odd)
        holder = changed
        for key in path[:-1]:
            holder = holder[key]
        last, new = path[-1], copy.deepcopy(draw(odd))
        change = draw(st.sampled_from(["replace", "replace", "take out", "add", "double"]))
        if change == "replace":
            holder[last] = new
        elif change == "take out":
            del holder[last]
        elif isinstance(holder, list):
            holder.insert(last, new if change == "add" else copy.deepcopy(holder[last]))
        else:
            holder[f"{last}{draw(st.sampled_from(['s', '_1', '_scores', ' ', '_' + '9' * 5000]))}"] = new
    return changed


@st.composite
def spoilt(draw: st.DrawFn, whole: bytes, pieces: Sequence[bytes] = (), most: int = 2) -> bytes:
    """The bytes with up to `most` short stretches taken out, doubled, or replaced, by a piece if there are any."""
    for _ in range(draw(st.integers(0, most))):
        start = draw(st.integers(0, len(whole)))
        end = draw(st.integers(start, min(len(whole), start + 8)) | st.just(len(whole)))
        by = st.binary(max_size=3) | st.just(2 * whole[start:end])
        whole = whole[:start] + draw(by | st.sampled_from(pieces) if pieces else by) + whole[end:]
    return whole
