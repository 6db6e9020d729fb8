"""One prompt for all candidates of an instance, next to its positives (RLHN, arXiv 2505.16967)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from relabel.judges.base import EMPTY_TEXT, TOO_LONG, Found, LLMJudge, fits, has_text
from relabel.judges.questions import Messages, Question, ask
from relabel.judges.votes import Vote, vote
from relabel.parsing import Abstained, Opinion, parse_rlhn
from relabel.records import Asking, Case, Passage, Verdict


@dataclass(slots=True)
class _List:
    """The candidates of one prompt, or one part of a candidate, which begins at `start`; and what is asked."""

    places: list[int]
    start: int
    questions: list[Question[list[str]]]


class ListwiseJudge(LLMJudge):
    """Shows all candidates of an instance in one prompt, or in several where one would be too long."""

    def judge(self, case: Case, kind: str, candidates: Sequence[int]) -> Asking[Found]:
        """Each prompt shows all the positives. A candidate without text is not shown, one that is too long in parts."""
        instance = case.instance
        shown = [place for place in candidates if has_text(instance.negatives[place])]
        passages = [instance.negatives[place] for place in shown]

        def render(some: Sequence[Passage]) -> Messages:
            return self.prompt.messages(kind, instance.query, instance.positives, some)

        asked: list[_List] = []
        for some in self.divide(kind, instance.query, instance.positives, passages, partial(render, [])):
            places, messages = [shown[nth] for nth in some], render([passages[nth] for nth in some])
            if fits(messages, self.limit):
                asked.append(self._list(places, 0, messages))
            elif len(some) == 1:
                passage = passages[some[0]]
                parts = self.windows(passage, render([passage._replace(text="")]))
                asked += [self._list(places, start, render([part])) for start, part in parts]
        yield from ask([question for one in asked for question in one.questions])
        verdicts = self._verdicts(asked)
        for place in candidates:
            if place not in verdicts:
                verdicts[place] = self.abstain(TOO_LONG if place in shown else EMPTY_TEXT)
        return Found(verdicts, {})

    def _list(self, places: list[int], start: int, messages: Messages) -> _List:
        read = partial(parse_rlhn, candidates=len(places))
        return _List(places, start, [Question(self, messages, read, n) for n in range(self.settings.samples)])

    def _verdicts(self, asked: Sequence[_List]) -> dict[int, Verdict]:
        verdicts: dict[int, Verdict] = {}
        parts: defaultdict[int, list[tuple[int, Vote]]] = defaultdict(list)
        for one in asked:
            keys = [question.key for question in one.questions]
            results = [question.result for question in one.questions]
            said = list(zip(*([r] * len(one.places) if isinstance(r, Abstained) else r for r in results), strict=True))
            votes = {labels: self._vote(labels, keys) for labels in dict.fromkeys(said)}
            if len(one.places) == 1:
                parts[one.places[0]].append((one.start, votes[said[0]]))
            else:
                shared = {labels: self.verdict([(0, found)]) for labels, found in votes.items()}
                verdicts.update(zip(one.places, map(shared.__getitem__, said), strict=True))
        return verdicts | {place: self.verdict(found) for place, found in parts.items()}

    def _vote(self, labels: Sequence[str | Abstained], keys: Sequence[str | None]) -> Vote:
        opinions = [label if isinstance(label, Abstained) else Opinion(label) for label in labels]
        return vote(list(zip(opinions, keys, strict=True)), "samples")
