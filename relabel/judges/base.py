"""What all judges that ask a model share: how a call is made, asked again, put to the vote, and made a verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

from relabel.config import LLMJudgeSettings
from relabel.forms import NO_ANSWER
from relabel.parsing import Abstained, Opinion
from relabel.prompts import Prompt
from relabel.records import UNANSWERED, Asking, Call, Case, Passage, Reply, Request, ScoreKind, Verdict

BYTES_PER_TOKEN = 2
"""A token of any usual tokenizer stands for at least this many bytes of UTF-8, on the average of a prompt. Whether a
prompt fits a context is decided by this bound alone."""

_PER_PASSAGE = 128
"""More than a prompt writes around one passage, in bytes."""

_ATTEMPTS = 1000
"""The sample index of a question's first attempt, for each further sample: no number of attempts comes up to it."""

EMPTY_TEXT = "empty_text"
"""The reason of a verdict on a candidate that has nothing to judge."""

SUSPECT_POSITIVE = "suspect_positive"
"""The reason of a verdict on a candidate for which no positive holds an answer to compare it with."""

Retry = frozenset[Literal["abstained", "refused"]]
Messages = tuple[dict[str, str], ...]


class Found(NamedTuple):
    """What a judge says, by 0-based place: of candidates, and of positives if it was asked about them, too."""

    candidates: dict[int, Verdict]
    positives: dict[int, Verdict]


class Judge(Protocol):
    """Gives one verdict for each candidate it is shown."""

    labels: Sequence[str]
    """All that it can say."""

    def judge(self, case: Case, kind: str, candidates: Sequence[int]) -> Asking[Found]:
        """Verdicts of the candidates at these 0-based places, by the criteria of this kind."""


class LLMJudge:
    """A prompt for a model, with the model's settings."""

    def __init__(self, tier: str, settings: LLMJudgeSettings, prompt: Prompt, retry: Retry = frozenset()) -> None:
        self.labels: Sequence[str] = prompt.form.labels
        self.tier = tier
        self.settings = settings
        self.prompt = prompt
        self.retry = retry
        self.limit = (settings.context - (settings.max_tokens or 0)) * BYTES_PER_TOKEN

    def judge(self, case: Case, kind: str, candidates: Sequence[int]) -> Asking[Found]:
        """Verdicts of the candidates at these 0-based places, by the criteria of this kind."""
        raise NotImplementedError

    def call(self, messages: Messages, sample: int, attempt: int, longer: bool, optional: bool) -> Call:
        """The call of one attempt at one sample; `longer` gives it the larger limit that a cut-off reply asks for."""
        settings, index = self.settings, sample * _ATTEMPTS + attempt
        sampling: dict[str, Any] = {
            "temperature": settings.retry_temperature if attempt else settings.temperature,
            "top_p": settings.top_p,
            "max_tokens": settings.retry_max_tokens if longer else settings.max_tokens,
            "seed": (settings.seed or 0) + index if index else settings.seed,
            "logprobs": True if settings.top_logprobs else None,
            "top_logprobs": settings.top_logprobs or None,
            **settings.extra_body,
        }
        if settings.temperature is None:
            sampling["temperature"] = None
        request = Request(
            settings.model,
            messages,
            {name: value for name, value in sampling.items() if value is not None},
            self.prompt.schema,
            sample=index,
            model_revision=settings.model_revision,
        )
        return Call(request, self.tier, settings.client, self.prompt.label, optional)

    def may_lengthen(self) -> bool:
        """Whether a reply that was cut off may be asked for again with a larger limit."""
        longer, limit = self.settings.retry_max_tokens, self.settings.max_tokens
        return longer is not None and limit is not None and longer > limit

    def may_ask(self, attempt: int, reason: str) -> bool:
        """Whether this attempt may be sent, by the settings alone."""
        return attempt <= self.settings.retries and reason != "refused"

    def may_insist(self, reason: str) -> bool:
        """Whether `--retry` asks for one attempt more than the settings do."""
        return ("refused" if reason == "refused" else "abstained") in self.retry

    def abstain(self, reason: str) -> Verdict:
        """The verdict on a passage that no reply speaks of."""
        return Verdict(self.tier, self.prompt.label, self.settings.model, None, reason)

    def verdict(self, vote: Vote) -> Verdict:
        """The verdict that a vote comes to."""
        tier, judge, model, winner = self.tier, self.prompt.label, self.settings.model, vote.winner
        keys = vote.keys if len(vote.keys) > 1 else None
        if isinstance(winner, Abstained):
            found = winner.found or None if vote.key else None
            return Verdict(
                tier, judge, model, None, winner.reason, votes=vote.votes, evidence=found, key=vote.key, keys=keys
            )
        return Verdict(
            tier,
            judge,
            model,
            winner.label,
            score=winner.score,
            score_kind=winner.score_kind,
            outside=winner.outside,
            votes=vote.votes,
            evidence=winner.evidence,
            offset=winner.offset,
            key=vote.key,
            keys=keys,
        )

    def divide(
        self,
        kind: str,
        query: str,
        positives: Sequence[Passage],
        passages: Sequence[Passage],
        bare: Callable[[], Messages],
    ) -> list[list[int]]:
        """The passages, by place, in as few lists as `max_candidates` and the context allow, in order and of like
        length. `bare` is the prompt of each list without its passages; what shows the positives, one way or another.
        """
        if 4 * (len(query) + _letters(positives) + _letters(passages)) + 65_536 < self.limit:
            return lists([0] * len(passages), 0, self.settings.max_candidates)
        empty = size(self.prompt.messages(kind, "", (), []))
        sizes = [size(self.prompt.messages(kind, "", (), [one])) - empty + _PER_PASSAGE for one in passages]
        return lists(sizes, self.limit - size(bare()), self.settings.max_candidates)

    def trusted_positives(self, case: Case) -> list[int] | None:
        """The positives to compare with, by place: all of them, or, where the settings do not trust a positive in which
        no answer was found, those that hold one; None if there are none of these.
        """
        if self.settings.suspect_positive == "rank" or not any(case.positives):
            return list(range(len(case.positives)))
        holding = [place for place in range(len(case.positives)) if snippet_of(case.positives[place]) is not None]
        return holding or None


def snippet_of(verdicts: Sequence[Verdict]) -> str | None:
    """The answer that an earlier tier found in a passage, if the last one that looked for it did."""
    for verdict in reversed(verdicts):
        if verdict.label == NO_ANSWER or verdict.abstained is not None:
            return None
        if verdict.evidence is not None:
            return verdict.evidence
    return None


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


@dataclass(frozen=True, slots=True)
class Vote:
    """What several replies to the same question come to: the winner, and the reply that speaks for it."""

    winner: Opinion | Abstained
    key: str | None
    keys: tuple[str, ...] = ()
    votes: dict[str, int] | None = None


def vote(said: Sequence[tuple[Opinion | Abstained, str | None]], kind: ScoreKind) -> Vote:
    """The label that more than half of all replies give, and the first of these replies; without one, an abstention.

    The score is the share that gives the label, unless the reply brings one of its own (the tokens' probability) or
    there is just one reply: that agrees with nobody.
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


def fits(messages: Messages, limit: int) -> bool:
    """Whether the messages take at most so many bytes; few letters need not be counted exactly."""
    return 4 * sum(len(message["content"]) for message in messages) <= limit or size(messages) <= limit


def size(messages: Messages) -> int:
    """The bytes of the messages' contents."""
    return sum(len(message["content"].encode()) for message in messages)


def has_text(passage: Passage) -> bool:
    """Whether there is anything to judge."""
    return bool(passage.text.strip() or passage.title.strip())


def _letters(passages: Sequence[Passage]) -> int:
    return sum([len(passage.text) + len(passage.title) + _PER_PASSAGE for passage in passages])


def lists(sizes: Sequence[int], room: int, most: int) -> list[list[int]]:
    """So many things, of these sizes in bytes, in as few lists as `room` and `most` allow, in order and of like length.

    A thing larger than the room has a list to itself.
    """
    if not sizes:
        return []
    width = -(-len(sizes) // -(-len(sizes) // most))
    found: list[list[int]] = [[]]
    left = room
    for thing, needed in enumerate(sizes):
        if found[-1] and (len(found[-1]) >= width or needed > left):
            found.append([])
            left = room
        found[-1].append(thing)
        left -= needed
    return found
