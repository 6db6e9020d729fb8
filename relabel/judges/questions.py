"""A prompt and the attempts at it: when a reply that says nothing is asked for again, and when no more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from relabel.parsing import Abstained
from relabel.records import UNANSWERED, Asking, Call, Reply

if TYPE_CHECKING:
    from relabel.judges.base import LLMJudge

Messages = tuple[dict[str, str], ...]
T = TypeVar("T")


@dataclass(slots=True)
class Question(Generic[T]):
    """One prompt and the attempts at it, up to the first reply that is understood.

    Each attempt is a request of its own, with its own sample index, seed and temperature, and so with its own key.
    Attempts beyond the settings are looked up and not sent, so that a series that `--retry` once made longer is read to
    its end ever after.
    """

    judge: LLMJudge
    messages: Messages
    read: Callable[[Reply], T | Abstained]
    sample: int = 0
    attempt: int = 0
    longer: bool = False
    optional: bool = False
    insisted: bool = False
    done: bool = False
    key: str | None = None
    result: T | Abstained = field(default_factory=lambda: Abstained(UNANSWERED))
    _asked: str = ""

    def call(self) -> Call:
        """The next attempt."""
        call = self.judge.call(self.messages, self.sample, self.attempt, self.longer, self.optional)
        self._asked = call.request.key
        return call

    def take(self, reply: Reply | None) -> None:
        """Read the attempt's reply, and see whether another is due."""
        if reply is None:
            self._missing()
            return
        self.key = self._asked
        self.result = self.read(reply)
        if not isinstance(self.result, Abstained):
            self.done = True
            return
        cut_off = self.result.reason == "length"
        if cut_off and (self.longer or not self.judge.may_lengthen()):
            self.done = True
            return
        self.attempt += 1
        self.longer = self.longer or cut_off
        self.optional = not self.judge.may_ask(self.attempt, self.result.reason)

    def _missing(self) -> None:
        if not self.optional:
            self.result, self.key, self.done = Abstained(UNANSWERED), None, True
        elif isinstance(self.result, Abstained) and self.judge.may_insist(self.result.reason) and not self.insisted:
            self.insisted, self.optional = True, False
        else:
            self.done = True


def ask(questions: Sequence[Question[Any]]) -> Asking[None]:
    """Have questions answered side by side, all their next calls at once."""
    waiting = list(questions)
    while waiting:
        replies = yield [question.call() for question in waiting]
        for question, reply in zip(waiting, replies, strict=True):
            question.take(reply)
        waiting = [question for question in waiting if not question.done]
