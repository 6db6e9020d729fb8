"""Several replies about one passage, made one: the majority of those to the same question, the best of its windows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from relabel.parsing import Abstained, Opinion
from relabel.records import UNANSWERED, ScoreKind


@dataclass(frozen=True, slots=True)
class Vote:
    """What several replies to the same question come to: the winner, and the reply that speaks for it."""

    winner: Opinion | Abstained
    key: str | None
    keys: tuple[str, ...] = ()
    votes: dict[str, int] | None = None


def vote(said: Sequence[tuple[Opinion | Abstained, str | None]], kind: ScoreKind) -> Vote:
    """The label that more than half of all replies give, and the first of these replies; without one, an abstention.

    The score is the share that gives the label. A single reply agrees with nobody: it has the score that it brings (the
    probability of its tokens), or none.
    """
    keys = tuple(dict.fromkeys(key for _, key in said if key is not None))
    if len(said) == 1:
        return Vote(*said[0], keys)
    if any(isinstance(one, Abstained) and one.reason == UNANSWERED for one, _ in said):
        return Vote(Abstained(UNANSWERED), None)
    counts = Counter(one.reason if isinstance(one, Abstained) else one.label for one, _ in said)
    votes = dict(sorted(counts.items()))
    for one, key in said:
        if isinstance(one, Opinion) and counts[one.label] * 2 > len(said):
            share = round(counts[one.label] / len(said), 6)
            return Vote(Opinion(one.label, one.evidence, one.offset, share, kind), key, keys, votes)
    reasons = [(one, key) for one, key in said if isinstance(one, Abstained)]
    if len(reasons) * 2 > len(said):
        return Vote(*reasons[0], keys, votes)
    return Vote(
        Abstained("no_majority", ", ".join(f"{label}: {n}" for label, n in votes.items())), said[0][1], keys, votes
    )


def best(parts: Sequence[tuple[int, Vote]], labels: Sequence[str]) -> Vote:
    """What the windows of a passage come to, each with its 0-based offset: the one that says most in its favour, and of
    several the surest.

    `labels` are ordered, the last most in favour. A window that says nothing leaves the passage undecided, unless
    another has found all that there is to find. What stands only because no window says more is as sure as the least
    sure of them. As long as one waits for its reply, so does the passage.
    """
    if len(parts) == 1:
        return parts[0][1]
    for _, one in parts:
        if isinstance(one.winner, Abstained) and one.winner.reason == UNANSWERED:
            return one
    keys = tuple(dict.fromkeys(key for _, one in parts for key in one.keys))
    silent = next((one for _, one in parts if isinstance(one.winner, Abstained)), None)
    spoken = [(start, one, one.winner) for start, one in parts if isinstance(one.winner, Opinion)]
    top = max((labels.index(winner.label) for _, _, winner in spoken), default=-1)
    if silent is not None and top < len(labels) - 1:
        return replace(silent, keys=keys)
    chosen = [found for found in spoken if labels.index(found[2].label) == top]
    start, one, winner = max(chosen, key=lambda found: found[2].score or 0.0)
    score = winner.score
    if top < len(labels) - 1:
        scores = [said.score for _, _, said in spoken]
        score = None if None in scores else min(one for one in scores if one is not None)
    in_title = winner.evidence is not None and winner.offset is None
    offset = None if in_title else start + (winner.offset or 0)
    return replace(one, winner=replace(winner, offset=offset, score=score), keys=keys)
