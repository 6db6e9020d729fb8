"""Labelled pairs: what every cheap judge said of a candidate, what the strong one said, and what a person did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from relabel.labels import Name


@dataclass(frozen=True, slots=True)
class Pair:
    """A candidate with its features before and after the strong judge. `finds` is what that judge's verdict alone says:
    None where it abstained. `relevant` is what a person says.
    """

    query_id: str
    docid: str
    cheap: Mapping[str, float]
    strong: Mapping[str, float]
    finds: bool | None
    relevant: bool
    subset: str = ""


@dataclass(slots=True)
class Pairs:
    """Labelled pairs with what else is known of their judges; `notes` say what was left out, and why.

    `cheap` and `strong` name the features that the judges can give, `judges` those of a run's tiers; `usd` is what a
    strong verdict costs.
    """

    pairs: list[Pair]
    strong_tier: str
    cheap: Sequence[str]
    strong: Sequence[str]
    judges: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    usd: float | None = None

    def __post_init__(self) -> None:
        self.pairs.sort(key=lambda pair: (pair.query_id, pair.docid))

    @property
    def subsets(self) -> dict[str, int]:
        """How many pairs there are of each subset."""
        return dict(sorted(Counter(pair.subset for pair in self.pairs).items()))


def count_unjudged(labels: Iterable[Name], pairs: Iterable[Pair]) -> int:
    """How many labels belong to no pair."""
    return len(set(labels) - {(pair.query_id, pair.docid) for pair in pairs})
