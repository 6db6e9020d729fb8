"""One ranking of the passages that hold an answer, the positives among them and not told apart (ARHN's second stage,
arXiv 2604.11092).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b

from relabel.forms import ABOVE, BELOW
from relabel.judges.base import (
    EMPTY_TEXT,
    SUSPECT_POSITIVE,
    Found,
    LLMJudge,
    Question,
    ask,
    fits,
    has_text,
    snippet_of,
    vote,
)
from relabel.parsing import Abstained, Opinion, parse_ranking
from relabel.records import Asking, Case, Instance, Passage, Reply, Verdict, Verdicts

Places = list[int | None]


@dataclass(slots=True)
class _Window:
    """One list of passages, its positives first, and its ranking in each order in which it was shown."""

    positives: int
    candidates: list[int]
    orders: list[list[int]]
    questions: list[Question[Places]]


class RankingJudge(LLMJudge):
    """Shows candidates and positives in one list, in one or several orders, and compares their places.

    Every window of a long list holds all the positives that are shown, so that a candidate is only ever compared with
    a positive that was ranked along with it. "above" means: placed higher than the positive (of several: the `best`,
    which has the highest place on the average of the orders; `any`; or `all`) in most of the orders.
    """

    def judge(self, case: Case, kind: str, candidates: Sequence[int]) -> Asking[Found]:
        """A window whose positives do not fit the context beside a candidate is not sent."""
        instance = case.instance
        trusted = self.trusted_positives(case)
        positives = [self._shown(instance.positives[place], case.positives[place]) for place in trusted or ()]
        positives = [passage for passage in positives if has_text(passage)]
        if not positives:
            return Found(dict.fromkeys(candidates, self.abstain(SUSPECT_POSITIVE)), {})
        verdicts = {place: self.abstain(EMPTY_TEXT) for place in candidates if not has_text(instance.negatives[place])}
        judged = [place for place in candidates if place not in verdicts]
        shown = [self._shown(instance.negatives[place], case.candidates[place]) for place in judged]
        bare = partial(self.prompt.messages, kind, instance.query, (), positives)
        asked = []
        for some in self.divide(kind, instance.query, positives, shown, bare):
            places = [judged[nth] for nth in some]
            window = self._window(instance, kind, positives, places, [shown[nth] for nth in some])
            if window is None:
                verdicts.update(dict.fromkeys(places, self.abstain("too_long")))
            else:
                asked.append(window)
        yield from ask([question for window in asked for question in window.questions])
        for window in asked:
            verdicts.update(self._verdicts(window))
        return Found(verdicts, {})

    def _shown(self, passage: Passage, verdicts: Verdicts) -> Passage:
        """The passage as the ranking shows it: by its snippet where it has one and snippets are wanted."""
        snippet = snippet_of(verdicts) if self.settings.show == "snippets" else None
        return passage if snippet is None else passage._replace(text=snippet)

    def _window(
        self,
        instance: Instance,
        kind: str,
        positives: Sequence[Passage],
        places: list[int],
        candidates: Sequence[Passage],
    ) -> _Window | None:
        passages = [*positives, *candidates]
        window = _Window(len(positives), places, orders_of(instance.query, passages, self.settings.orders), [])
        for order in window.orders:
            messages = self.prompt.messages(kind, instance.query, (), [passages[item] for item in order])
            if not fits(messages, self.limit):
                return None
            needed = [number for number, item in enumerate(order, 1) if item < len(positives)]
            read = partial(_places, order=order, needed=needed)
            window.questions.append(Question(self, messages, read))
        return window

    def _verdicts(self, window: _Window) -> dict[int, Verdict]:
        yardsticks = range(window.positives)
        ranked = [q.result for q in window.questions if not isinstance(q.result, Abstained)]
        best = min(yardsticks, key=lambda item: sum(places[item] or 0 for places in ranked))
        verdicts = {}
        for item, place in enumerate(window.candidates, window.positives):
            said: list[tuple[Opinion | Abstained, str | None]] = [
                (self._opinion(question.result, item, best, yardsticks), question.key) for question in window.questions
            ]
            verdicts[place] = self.verdict(vote(said, "orders"))
        return verdicts

    def _opinion(
        self, places: Places | Abstained, item: int, best: int, yardsticks: Sequence[int]
    ) -> Opinion | Abstained:
        """What one order says of one candidate."""
        if isinstance(places, Abstained):
            return places
        mine = places[item]
        if mine is None:
            return Abstained("left_out")
        theirs = [places[yardstick] or 0 for yardstick in yardsticks]
        bar = {"best": theirs[best], "any": max(theirs), "all": min(theirs)}[self.settings.above]
        return Opinion(ABOVE if mine < bar else BELOW)


def _places(reply: Reply, order: Sequence[int], needed: Sequence[int]) -> Places | Abstained:
    """The place of each passage, whatever the order in which it was shown."""
    ranking = parse_ranking(reply, len(order), needed)
    if isinstance(ranking, Abstained):
        return ranking
    places: Places = [None] * len(order)
    for item, place in zip(order, ranking, strict=True):
        places[item] = place
    return places


def orders_of(query: str, passages: Sequence[Passage], count: int) -> list[list[int]]:
    """So many different orders of the passages, or all that there are: each a list of places in `passages`.

    Shuffled by what they say, so that the same list is shown alike wherever and whenever it is judged. Every second
    order is the reverse of the one before it, so that what gains by standing early loses as much.
    """
    found: list[list[int]] = []
    most = min(count, math.factorial(min(len(passages), 12)))
    turn = 0
    while len(found) < most:
        keys = [_digest(query, passage, item, turn) for item, passage in enumerate(passages)]
        order = sorted(range(len(passages)), key=keys.__getitem__)
        for one in (order, order[::-1]):
            if one not in found and len(found) < most:
                found.append(one)
        turn += 1
    return found


def _digest(query: str, passage: Passage, item: int, turn: int) -> bytes:
    digest = blake2b(digest_size=16)
    for part in (query, passage.title, passage.text, str(item), str(turn)):
        digest.update(len(part).to_bytes(8) + part.encode())
    return digest.digest()
