"""One ranking of the passages that hold an answer, the positives among them and not told apart (ARHN's second stage,
arXiv 2604.11092).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b

from relabel.forms import ABOVE, BELOW, UNPROVEN
from relabel.judges.base import (
    EMPTY_TEXT,
    SUSPECT_POSITIVE,
    TOO_LONG,
    Found,
    LLMJudge,
    fits,
    has_text,
    snippet_of,
)
from relabel.judges.questions import Messages, Question, ask
from relabel.judges.votes import Vote, best, vote
from relabel.parsing import Abstained, Opinion, parse_ranking
from relabel.records import Asking, Case, Passage, Reply, Verdict, Verdicts

Places = list[int | None]


@dataclass(slots=True)
class _Window:
    """One list of passages, the positives first, and its ranking in each order in which it was shown.

    `candidates` are their places in the instance. Of one that is too long it holds the part that begins at `start`.
    """

    passages: list[Passage]
    positives: int
    candidates: list[int]
    start: int
    questions: list[Question[Places]]


class RankingJudge(LLMJudge):
    """Shows candidates and positives in one list, in one or several orders, and compares their places.

    A candidate in which an earlier tier has found an answer is "above" or "below"; one in which none has, and which is
    not above, is "unproven": for all that is known it is a true negative.

    Every window of a long list holds all the positives that are shown, so that a candidate is only ever compared with
    a positive that was ranked along with it. "above" means: placed higher than the positive (of several: the `best`,
    which has the highest place on the average of the orders; `any`; or `all`) in most of the orders.
    """

    def judge(self, case: Case, kind: str, candidates: Sequence[int]) -> Asking[Found]:
        """A candidate that does not fit the context beside the positives is ranked in parts; the best one stands."""
        instance = case.instance
        trusted = self.trusted_positives(case)
        if isinstance(trusted, Abstained):
            return Found(dict.fromkeys(candidates, self.abstain(trusted.reason)), {})
        positives = [self._shown(instance.positives[place], case.positives[place]) for place in trusted]
        positives = [passage for passage in positives if has_text(passage)]
        if not positives:
            return Found(dict.fromkeys(candidates, self.abstain(SUSPECT_POSITIVE)), {})
        judged = [place for place in candidates if has_text(instance.negatives[place])]
        shown = [self._shown(instance.negatives[place], case.candidates[place]) for place in judged]

        def render(passages: Sequence[Passage]) -> Messages:
            return self.prompt.messages(kind, instance.query, (), passages)

        def window(places: list[int], start: int, passages: Sequence[Passage]) -> _Window:
            return self._window(render, instance.query, positives, places, start, passages)

        asked: list[_Window] = []
        for some in self.divide(kind, instance.query, positives, shown, partial(render, positives)):
            places, passages = [judged[nth] for nth in some], [shown[nth] for nth in some]
            if fits(render([*positives, *passages]), self.limit):
                asked.append(window(places, 0, passages))
            elif len(some) == 1:
                parts = self.windows(passages[0], render([*positives, passages[0]._replace(text="")]))
                asked += [window(places, start, [part]) for start, part in parts]
        yield from ask([question for one in asked for question in one.questions])
        votes: defaultdict[int, list[tuple[int, Vote]]] = defaultdict(list)
        for one in asked:
            for place, found in self._votes(one):
                votes[place].append((one.start, found))
        verdicts = {place: self.abstain(TOO_LONG if place in judged else EMPTY_TEXT) for place in candidates}
        for place, several in votes.items():
            winner = _with_evidence(best(several, self.labels), snippet_of(case.candidates[place]))
            verdicts[place] = self.verdict([(0, winner)])
        return Found(verdicts, {})

    def _shown(self, passage: Passage, verdicts: Verdicts) -> Passage:
        """The passage as the ranking shows it: by its snippet where it has one and snippets are wanted."""
        found = snippet_of(verdicts) if self.settings.show == "snippets" else None
        return passage if found is None or found.evidence is None else passage._replace(text=found.evidence)

    def _window(
        self,
        render: Callable[[Sequence[Passage]], Messages],
        query: str,
        positives: Sequence[Passage],
        places: list[int],
        start: int,
        candidates: Sequence[Passage],
    ) -> _Window:
        passages = [*positives, *candidates]
        questions = []
        for order in orders_of(query, passages, self.settings.orders):
            needed = [number for number, item in enumerate(order, 1) if item < len(positives)]
            read = partial(_places, order=order, needed=needed)
            questions.append(Question(self, render([passages[item] for item in order]), read))
        return _Window(passages, len(positives), places, start, questions)

    def _votes(self, window: _Window) -> Iterator[tuple[int, Vote]]:
        """What the orders of a window say of each of its candidates, by place."""
        yardsticks = range(window.positives)
        ranked = [q.result for q in window.questions if not isinstance(q.result, Abstained)]
        highest = min(yardsticks, key=lambda item: sum(places[item] or 0 for places in ranked))
        for item, place in enumerate(window.candidates, window.positives):
            twins = [other for other in yardsticks if _words(window.passages[other]) == _words(window.passages[item])]
            said = [(self._opinion(q.result, item, twins, highest, yardsticks), q.key) for q in window.questions]
            yield place, vote(said, "orders")

    def _opinion(
        self, places: Places | Abstained, item: int, twins: Sequence[int], highest: int, yardsticks: Sequence[int]
    ) -> Opinion | Abstained:
        """What one order says of one candidate. It answers just as directly as a positive shown in the same words."""
        if isinstance(places, Abstained):
            return places
        mine = places[item]
        if mine is None:
            return Abstained("left_out")
        theirs = [places[yardstick] or 0 for yardstick in yardsticks]
        if twins:
            mine = min(theirs[twin] for twin in twins)
        bar = {"best": theirs[highest], "any": max(theirs), "all": min(theirs)}[self.settings.above]
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


def _with_evidence(vote: Vote, found: Verdict | None) -> Vote:
    """The vote with the answer that was found in the candidate; without one, being below a positive proves nothing."""
    winner = vote.winner
    if isinstance(winner, Abstained):
        return vote
    if found is not None:
        return replace(vote, winner=replace(winner, evidence=found.evidence, offset=found.offset))
    if winner.label == BELOW:
        votes = vote.votes and {UNPROVEN if label == BELOW else label: n for label, n in vote.votes.items()}
        return replace(vote, winner=replace(winner, label=UNPROVEN), votes=votes)
    return vote


def _words(passage: Passage) -> tuple[list[str], list[str]]:
    return passage.title.split(), passage.text.split()


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
