"""One prompt for all candidates of an instance, next to its positives (RLHN, arXiv 2505.16967)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from relabel.judges.base import (
    EMPTY_TEXT,
    Found,
    LLMJudge,
    Question,
    ask,
    fits,
    has_text,
    vote,
)
from relabel.parsing import Abstained, Opinion, parse_rlhn
from relabel.records import Asking, Case, Verdict


class ListwiseJudge(LLMJudge):
    """Shows all candidates of an instance in one prompt, or in several where one would be too long."""

    def judge(self, case: Case, kind: str, candidates: Sequence[int]) -> Asking[Found]:
        """Each prompt shows all the positives; a candidate that fits no prompt, or has no text, is not shown."""
        instance = case.instance
        verdicts: dict[int, Verdict] = {}
        shown = []
        for place in candidates:
            if has_text(instance.negatives[place]):
                shown.append(place)
            else:
                verdicts[place] = self.abstain(EMPTY_TEXT)
        asked: list[tuple[list[int], list[Question[list[str]]]]] = []
        passages = [instance.negatives[place] for place in shown]
        bare = partial(self.prompt.messages, kind, instance.query, instance.positives, [])
        for some in self.divide(kind, instance.query, instance.positives, passages, bare):
            places = [shown[nth] for nth in some]
            passages_shown = [passages[nth] for nth in some]
            messages = self.prompt.messages(kind, instance.query, instance.positives, passages_shown)
            if fits(messages, self.limit):
                read = partial(parse_rlhn, candidates=len(places))
                samples = range(self.settings.samples)
                asked.append((places, [Question(self, messages, read, sample) for sample in samples]))
            else:
                verdicts.update(dict.fromkeys(places, self.abstain("too_long")))
        yield from ask([question for _, questions in asked for question in questions])
        for places, questions in asked:
            verdicts.update(self._verdicts(places, questions))
        return Found(verdicts, {})

    def _verdicts(self, places: list[int], questions: list[Question[list[str]]]) -> dict[int, Verdict]:
        shared: dict[tuple[str | Abstained, ...], Verdict] = {}
        verdicts = {}
        for nth, place in enumerate(places):
            said = tuple(q.result if isinstance(q.result, Abstained) else q.result[nth] for q in questions)
            if said not in shared:
                opinions = [one if isinstance(one, Abstained) else Opinion(one) for one in said]
                keys = [question.key for question in questions]
                shared[said] = self.verdict(vote(list(zip(opinions, keys, strict=True)), "samples"))
            verdicts[place] = shared[said]
        return verdicts
