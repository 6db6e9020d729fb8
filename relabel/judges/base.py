"""What all judges that ask a model share: how a call is made, what fits into it, and what becomes a verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from relabel.config import LLMJudgeSettings
from relabel.errors import ConfigError
from relabel.forms import NO_ANSWER
from relabel.judges.questions import Messages
from relabel.judges.votes import Vote, best
from relabel.judges.windows import split
from relabel.parsing import Abstained
from relabel.prompts import Prompt
from relabel.records import Asking, Call, Case, Passage, Request, Verdict
from relabel.signals import fields

BYTES_PER_TOKEN = 2
"""A token of any usual tokenizer stands for at least this many bytes of UTF-8, on the average of a prompt. Whether a
prompt fits a context is decided by this bound alone."""

_PER_PASSAGE = 128
"""More than a prompt writes around one passage, in bytes."""

_ATTEMPTS = 1000
"""The sample index of a question's first attempt, for each further sample: no number of attempts comes up to it."""

_LEAST_ROOM = 256
"""A window of a passage must hold at least so many bytes: less is not worth a call."""

EMPTY_TEXT = "empty_text"
"""The reason of a verdict on a candidate that has nothing to judge."""

TOO_LONG = "too_long"
"""The reason of a verdict on a candidate that fits no prompt, not even in parts."""

SUSPECT_POSITIVE, UNSURE_POSITIVE = "suspect_positive", "unsure_positive"
"""The reasons of a verdict on a candidate that there is no positive to compare with: none holds an answer, or it is not
known whether one does.
"""

Retry = frozenset[Literal["abstained", "refused"]]


class Found(NamedTuple):
    """What a judge says, by 0-based place: of candidates, and of positives if it was asked about them, too."""

    candidates: dict[int, Verdict]
    positives: dict[int, Verdict]


class Judge(Protocol):
    """Gives one verdict for each candidate it is shown."""

    name: str
    """How ledgers and reports name it."""

    labels: Sequence[str]
    """All that it can say, the last most in a candidate's favour (but for `unsure`)."""

    features: Sequence[str]
    """The fields of its verdicts that a calibration can weigh."""

    def judge(self, case: Case, kind: str, candidates: Sequence[int]) -> Asking[Found]:
        """Verdicts of the candidates at these 0-based places, by the criteria of this kind."""


class LLMJudge:
    """A prompt for a model, with the model's settings."""

    def __init__(self, tier: str, settings: LLMJudgeSettings, prompt: Prompt, retry: Retry = frozenset()) -> None:
        self.name = prompt.label
        self.labels: Sequence[str] = prompt.form.labels
        self.features: Sequence[str] = fields(prompt.form.labels)
        self.tier = tier
        self.settings = settings
        self.prompt = prompt
        self.retry = retry
        self.limit = (settings.context - (settings.max_tokens or 0)) * BYTES_PER_TOKEN
        least = min(size(prompt.messages(kind, "", (), ())) for kind in prompt.head.criteria)
        if least + _LEAST_ROOM > self.limit:
            raise ConfigError(
                f"tier {tier!r}: a context of {settings.context} tokens less max_tokens {settings.max_tokens} holds "
                f"{self.limit} bytes for sure; the prompt's own words take {least}. Raise context, or lower max_tokens"
            )

    def judge(self, case: Case, kind: str, candidates: Sequence[int]) -> Asking[Found]:
        """Verdicts of the candidates at these 0-based places, by the criteria of this kind."""
        raise NotImplementedError

    def windows(self, passage: Passage, beside: Messages) -> list[tuple[int, Passage]]:
        """A passage in parts that fit a prompt, with their offsets; none if what stands `beside` it leaves no room."""
        room = self.limit - size(beside)
        if room < _LEAST_ROOM:
            return []
        return [(start, passage._replace(text=text)) for start, text in split(passage.text, room, self.prompt.bytes_of)]

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
            self.prompt.schema if settings.structured else None,
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
        return Verdict(self.tier, self.name, self.settings.model, None, reason)

    def verdict(self, parts: Sequence[tuple[int, Vote]]) -> Verdict:
        """The verdict that the windows of a passage come to, each with its offset; mostly there is just one."""
        vote = best(parts, self.labels)
        tier, judge, model, winner = self.tier, self.name, self.settings.model, vote.winner
        keys = vote.keys if len(vote.keys) > 1 else None
        if isinstance(winner, Abstained):
            found = winner.found or None
            return Verdict(
                tier, judge, model, None, winner.reason, votes=vote.votes, found=found, key=vote.key, keys=keys
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

    def trusted_positives(self, case: Case) -> list[int] | Abstained:
        """The positives to compare with, by place: all of them, or, where the settings do not trust a positive in which
        no answer was found, those that hold one.
        """
        if self.settings.suspect_positive == "rank" or not any(case.positives):
            return list(range(len(case.positives)))
        holding = [place for place, verdicts in enumerate(case.positives) if snippet_of(verdicts) is not None]
        if holding:
            return holding
        unsure = any(verdicts and verdicts[-1].abstained is not None for verdicts in case.positives)
        return Abstained(UNSURE_POSITIVE if unsure else SUSPECT_POSITIVE)


def snippet_of(verdicts: Sequence[Verdict]) -> Verdict | None:
    """The verdict with the answer that an earlier tier found in a passage, if the last one that looked for it did."""
    for verdict in reversed(verdicts):
        if verdict.label == NO_ANSWER or verdict.abstained is not None:
            return None
        if verdict.evidence is not None:
            return verdict
    return None


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
