"""One prompt for each passage: does it hold an answer (ARHN's first stage), how relevant is it, is it as good as the
positives?
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from relabel.judges.base import EMPTY_TEXT, TOO_LONG, Found, LLMJudge, fits, has_text
from relabel.judges.questions import Messages, Question, ask
from relabel.judges.votes import vote
from relabel.parsing import Abstained, Opinion, parse_answer, parse_grade, parse_versus
from relabel.records import UNANSWERED, Asking, Case, Passage, Reply, Verdict

Render = Callable[[Passage], Messages]


@dataclass(slots=True)
class _Window:
    """A part of a passage, or the whole, with its offset and what is asked about it."""

    start: int
    questions: list[Question[Opinion]]


@dataclass(slots=True)
class _Subject:
    """A passage under judgement: the parts that are asked about, or why it is not judged."""

    windows: list[_Window] = field(default_factory=list)
    unjudged: str = ""


class PointwiseJudge(LLMJudge):
    """Asks about each candidate by itself, and, when it looks for answers, about each positive, too."""

    def judge(self, case: Case, kind: str, candidates: Sequence[int]) -> Asking[Found]:
        """A passage is judged whole if it fits the context, or else in overlapping windows."""
        instance = case.instance
        shown = self.trusted_positives(case) if self.prompt.form.positives else []
        if isinstance(shown, Abstained):
            return Found(dict.fromkeys(candidates, self.abstain(shown.reason)), {})
        yardsticks = [instance.positives[place] for place in shown]

        def render(passage: Passage) -> Messages:
            return self.prompt.messages(kind, instance.query, yardsticks, [passage])

        found = {place: self._subject(render, instance.negatives[place]) for place in candidates}
        judged = range(len(instance.positives)) if self.prompt.head.reply == "answer-snippet" else ()
        anchors = {place: self._subject(render, instance.positives[place]) for place in judged}
        yield from self._ask([window for subject in (*found.values(), *anchors.values()) for window in subject.windows])
        return Found(
            {place: self._verdict(subject) for place, subject in found.items()},
            {place: self._verdict(subject) for place, subject in anchors.items()},
        )

    def _subject(self, render: Render, passage: Passage) -> _Subject:
        if not has_text(passage):
            return _Subject(unjudged=EMPTY_TEXT)
        messages = render(passage)
        if fits(messages, self.limit):
            return _Subject([self._window(0, messages, passage)])
        parts = self.windows(passage, render(passage._replace(text="")))
        windows = [self._window(start, render(part), part) for start, part in parts]
        return _Subject(windows, "" if windows else TOO_LONG)

    def _window(self, start: int, messages: Messages, passage: Passage) -> _Window:
        return _Window(start, [Question(self, messages, self._reader(passage))])

    def _reader(self, passage: Passage) -> Callable[[Reply], Opinion | Abstained]:
        if self.prompt.head.reply == "graded":
            return parse_grade
        parser = parse_answer if self.prompt.head.reply == "answer-snippet" else parse_versus
        return partial(parser, passage=passage)

    def _ask(self, windows: Sequence[_Window]) -> Asking[None]:
        """Ask as often as `samples` says; just once where probabilities are asked for and the first reply has them."""
        if not self.settings.top_logprobs:
            self._sample(windows)
        yield from ask([question for window in windows for question in window.questions])
        if self.settings.top_logprobs:
            yield from ask(self._sample([window for window in windows if _unmeasured(window.questions[0])]))

    def _sample(self, windows: Sequence[_Window]) -> list[Question[Opinion]]:
        """Add the further samples of the first question of each window."""
        more = []
        for window in windows:
            (first,) = window.questions
            samples = range(1, self.settings.samples)
            window.questions += [Question(self, first.messages, first.read, sample) for sample in samples]
            more += window.questions[1:]
        return more

    def _verdict(self, subject: _Subject) -> Verdict:
        if subject.unjudged:
            return self.abstain(subject.unjudged)
        votes = [vote([(q.result, q.key) for q in window.questions], "samples") for window in subject.windows]
        return self.verdict([(window.start, one) for window, one in zip(subject.windows, votes, strict=True)])


def _unmeasured(first: Question[Opinion]) -> bool:
    """Whether a reply leaves open how sure the model is."""
    if isinstance(first.result, Abstained):
        return first.result.reason != UNANSWERED
    return first.result.score is None
