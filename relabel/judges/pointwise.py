"""One prompt for each passage: does it hold an answer (ARHN's first stage), how relevant is it, is it as good as the
positives?
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from relabel.judges.base import (
    EMPTY_TEXT,
    SUSPECT_POSITIVE,
    Found,
    LLMJudge,
    Messages,
    Question,
    Vote,
    ask,
    fits,
    has_text,
    size,
    vote,
)
from relabel.parsing import Abstained, Opinion, parse_answer, parse_grade, parse_versus
from relabel.records import UNANSWERED, Asking, Case, Passage, Reply, Verdict

_LEAST_ROOM = 256
"""A window of a passage must hold at least so many bytes: less is not worth a call."""

_OVERLAP = 4
"""Neighbouring windows share one part in so many, so that what one cuts through stands whole in the other."""

Read = Callable[[Reply], Opinion | Abstained]
Render = Callable[[Passage], Messages]


@dataclass(slots=True)
class _Window:
    """A part of a passage, or the whole, and what is asked about it."""

    start: int
    questions: list[Question[Opinion]]

    def vote(self) -> Vote:
        said: list[tuple[Opinion | Abstained, str | None]] = [(q.result, q.key) for q in self.questions]
        return vote(said, "samples")


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
        if shown is None:
            return Found(dict.fromkeys(candidates, self.abstain(SUSPECT_POSITIVE)), {})
        yardsticks = [instance.positives[place] for place in shown]
        render = partial(self._render, kind, instance.query, yardsticks)
        found = {place: self._subject(render, instance.negatives[place]) for place in candidates}
        judged = range(len(instance.positives)) if self.prompt.head.reply == "answer-snippet" else ()
        anchors = {place: self._subject(render, instance.positives[place]) for place in judged}
        yield from self._ask([window for subject in (*found.values(), *anchors.values()) for window in subject.windows])
        return Found(
            {place: self._verdict(subject) for place, subject in found.items()},
            {place: self._verdict(subject) for place, subject in anchors.items()},
        )

    def _render(self, kind: str, query: str, positives: Sequence[Passage], passage: Passage) -> Messages:
        return self.prompt.messages(kind, query, positives, [passage])

    def _subject(self, render: Render, passage: Passage) -> _Subject:
        if not has_text(passage):
            return _Subject(unjudged=EMPTY_TEXT)
        messages = render(passage)
        if fits(messages, self.limit):
            return _Subject([_Window(0, [self._question(messages, passage)])])
        bare = size(render(passage._replace(text="")))
        if self.limit - bare < _LEAST_ROOM:
            return _Subject(unjudged="too_long")
        windows = []
        for start, text in split(passage.text, self.limit - bare, self.prompt.bytes_of):
            part = passage._replace(text=text)
            windows.append(_Window(start, [self._question(render(part), part)]))
        return _Subject(windows)

    def _question(self, messages: Messages, passage: Passage, sample: int = 0) -> Question[Opinion]:
        return Question(self, messages, self._reader(passage), sample)

    def _reader(self, passage: Passage) -> Read:
        if self.prompt.head.reply == "graded":
            return parse_grade
        parser = parse_answer if self.prompt.head.reply == "answer-snippet" else parse_versus
        return partial(parser, passage=passage)

    def _ask(self, windows: Sequence[_Window]) -> Asking[None]:
        """Ask once; and where that does not show how sure the model is, as often as `samples` says."""
        yield from ask([window.questions[0] for window in windows])
        more = []
        for window in windows:
            first = window.questions[0]
            measured = isinstance(first.result, Opinion) and first.result.score is not None
            if not measured and first.result != Abstained(UNANSWERED):
                window.questions += [
                    Question(self, first.messages, first.read, sample) for sample in range(1, self.settings.samples)
                ]
                more += window.questions[1:]
        yield from ask(more)

    def _verdict(self, subject: _Subject) -> Verdict:
        if subject.unjudged:
            return self.abstain(subject.unjudged)
        votes = [window.vote() for window in subject.windows]
        if len(votes) == 1:
            return self.verdict(votes[0])
        return self.verdict(self._best(subject.windows, votes))

    def _best(self, windows: Sequence[_Window], votes: Sequence[Vote]) -> Vote:
        """The window that says most in the passage's favour. One that says nothing leaves the passage undecided, unless
        another has found all that there is to find.
        """
        keys = tuple(dict.fromkeys(key for one in votes for key in one.keys))
        rank = {label: place for place, label in enumerate(self.labels)}
        silent = [one for one in votes if isinstance(one.winner, Abstained)]
        best: Vote | None = None
        for window, one in zip(windows, votes, strict=True):
            winner = one.winner
            if isinstance(winner, Opinion) and (best is None or rank[winner.label] > _rank(rank, best)):
                in_title = winner.evidence is not None and winner.offset is None
                offset = None if in_title else window.start + (winner.offset or 0)
                best = replace(one, winner=replace(winner, offset=offset), keys=keys)
        if silent and (best is None or _rank(rank, best) < len(rank) - 1):
            return replace(silent[0], keys=keys)
        assert best is not None
        return best


def _rank(rank: dict[str, int], vote: Vote) -> int:
    return rank[vote.winner.label] if isinstance(vote.winner, Opinion) else -1


def split(text: str, room: int, measure: Callable[[str], int]) -> list[tuple[int, str]]:
    """A long text in overlapping windows of at most `room` by `measure`, each with its 0-based offset in the text.

    They end between words where they can, and together hold every letter.
    """
    windows = []
    start = 0
    while True:
        end = min(len(text), start + room)
        while (taken := measure(text[start:end])) > room and end - start > 1:
            end = start + max(1, (end - start) * room // taken - 1)
        if end < len(text):
            space = text.rfind(" ", start + (end - start) * (_OVERLAP - 1) // _OVERLAP, end)
            end = space if space > start else end
        windows.append((start, text[start:end]))
        if end == len(text):
            return windows
        back = max(start + 1, end - (end - start) // _OVERLAP)
        space = text.find(" ", back, end)
        start = space + 1 if start < space + 1 < end else back
