"""Judges that ask a model: a prompt, a model's settings and a parser.

A judge asks by yielding calls (records.Asking) and never learns where replies come from. An abstention may be asked
again: each attempt is a request of its own, with its own sample index, seed and temperature, so each has its own key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from relabel.config import LLMJudgeSettings
from relabel.parsing import RLHN_LABELS, Abstained, parse_rlhn
from relabel.prompts import Prompt
from relabel.records import UNANSWERED, Asking, Call, Instance, Passage, Reply, Request, Verdict

BYTES_PER_TOKEN = 2
"""A token of any usual tokenizer stands for at least this many bytes of UTF-8, on the average of a prompt. Whether a
prompt fits a context is decided by this bound alone."""

_PER_PASSAGE = 128
"""More than a prompt writes around one passage, in bytes."""

EMPTY_TEXT = "empty_text"
"""The reason of a verdict on a candidate that has nothing to judge."""

Retry = frozenset[Literal["abstained", "refused"]]


class Judge(Protocol):
    """Gives one verdict for each candidate it is shown."""

    labels: Sequence[str]
    """All that it can say."""

    def judge(self, instance: Instance, kind: str, candidates: Sequence[int]) -> Asking[dict[int, Verdict]]:
        """Verdicts of the candidates at these 0-based places; `kind` names the criteria of the instance's subset."""


class ListwiseJudge:
    """Shows all candidates of an instance in one prompt, or in several where one would be too long (RLHN)."""

    labels: Sequence[str] = RLHN_LABELS

    def __init__(self, tier: str, settings: LLMJudgeSettings, prompt: Prompt, retry: Retry = frozenset()) -> None:
        self.tier = tier
        self.settings = settings
        self.prompt = prompt
        self._retry = retry
        self._limit = (settings.context - (settings.max_tokens or 0)) * BYTES_PER_TOKEN

    def judge(self, instance: Instance, kind: str, candidates: Sequence[int]) -> Asking[dict[int, Verdict]]:
        """Each prompt shows all the positives; a candidate that fits no prompt, or has no text, is not shown."""
        verdicts: dict[int, Verdict] = {}
        shown = []
        for place in candidates:
            if instance.negatives[place].text.strip() or instance.negatives[place].title.strip():
                shown.append(place)
            else:
                verdicts[place] = self._abstain(EMPTY_TEXT)
        chains = []
        for places in self._lists(instance, kind, shown):
            passages = [instance.negatives[place] for place in places]
            messages = self.prompt.messages(kind, instance.query, instance.positives, passages)
            if not _fits(messages, self._limit):
                verdicts.update(dict.fromkeys(places, self._abstain("too_long")))
            else:
                chains.append(_Chain(self, messages, places))
        yield from _ask(chains)
        for chain in chains:
            verdicts.update(self._verdicts(chain))
        return verdicts

    def _verdicts(self, chain: _Chain) -> dict[int, Verdict]:
        result, key = chain.result, chain.key
        if isinstance(result, Abstained):
            return dict.fromkeys(chain.places, self._abstain(result.reason, result.found or None, key))
        tier, judge, model = self.tier, self.prompt.label, self.settings.model
        shared = {label: Verdict(tier, judge, model, label, key=key) for label in set(result)}
        return {place: shared[label] for place, label in zip(chain.places, result, strict=True)}

    def _abstain(self, reason: str, found: str | None = None, key: str | None = None) -> Verdict:
        return Verdict(
            self.tier, self.prompt.label, self.settings.model, None, reason, evidence=found if key else None, key=key
        )

    def _lists(self, instance: Instance, kind: str, places: Sequence[int]) -> list[list[int]]:
        """The candidates in as few lists as `max_candidates` and the context allow, in order and of like length."""
        if not places:
            return []
        count = -(-len(places) // self.settings.max_candidates)
        width = -(-len(places) // count)
        letters = len(instance.query) + _letters(instance.positives) + _letters(instance.negatives)
        if 4 * letters + 65_536 < self._limit:
            return [list(places[start : start + width]) for start in range(0, len(places), width)]
        room = self._limit - _size(self.prompt.messages(kind, instance.query, instance.positives, []))
        lists: list[list[int]] = [[]]
        left = room
        for place in places:
            passage = instance.negatives[place]
            size = _size(self.prompt.messages(kind, "", (), [passage])) - _size(self.prompt.messages(kind, "", (), []))
            size += _PER_PASSAGE
            if lists[-1] and (len(lists[-1]) >= width or size > left):
                lists.append([])
                left = room
            lists[-1].append(place)
            left -= size
        return lists

    def call(self, messages: tuple[dict[str, str], ...], attempt: int, longer: bool, optional: bool) -> Call:
        """The call of one attempt; `longer` gives it the larger limit that a cut-off reply asks for."""
        settings = self.settings
        sampling: dict[str, Any] = {
            "temperature": settings.retry_temperature if attempt else settings.temperature,
            "top_p": settings.top_p,
            "max_tokens": settings.retry_max_tokens if longer else settings.max_tokens,
            "seed": (settings.seed or 0) + attempt if attempt else settings.seed,
            **settings.extra_body,
        }
        if settings.temperature is None:
            sampling["temperature"] = None
        request = Request(
            settings.model,
            messages,
            {name: value for name, value in sampling.items() if value is not None},
            sample=attempt,
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
        return ("refused" if reason == "refused" else "abstained") in self._retry


@dataclass(slots=True)
class _Chain:
    """The attempts at one prompt, up to the first that is understood.

    Attempts beyond the settings are looked up and not sent, so that a chain that `--retry` once made longer is read to
    its end ever after.
    """

    judge: ListwiseJudge
    messages: tuple[dict[str, str], ...]
    places: list[int]
    attempt: int = 0
    longer: bool = False
    optional: bool = False
    insisted: bool = False
    done: bool = False
    key: str | None = None
    result: list[str] | Abstained = field(default_factory=lambda: Abstained(UNANSWERED))
    _asked: str = ""

    def call(self) -> Call:
        call = self.judge.call(self.messages, self.attempt, self.longer, self.optional)
        self._asked = call.request.key
        return call

    def take(self, reply: Reply | None) -> None:
        if reply is None:
            self._missing()
            return
        self.key = self._asked
        self.result = parse_rlhn(reply, len(self.places))
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


def _ask(chains: list[_Chain]) -> Asking[None]:
    """Drive chains side by side, all their next calls at once."""
    waiting = chains
    while waiting:
        replies = yield [chain.call() for chain in waiting]
        for chain, reply in zip(waiting, replies, strict=True):
            chain.take(reply)
        waiting = [chain for chain in waiting if not chain.done]


def _fits(messages: tuple[dict[str, str], ...], limit: int) -> bool:
    """Whether the messages take at most so many bytes; few letters need not be counted exactly."""
    return 4 * sum(len(message["content"]) for message in messages) <= limit or _size(messages) <= limit


def _size(messages: tuple[dict[str, str], ...]) -> int:
    return sum(len(message["content"].encode()) for message in messages)


def _letters(passages: Sequence[Passage]) -> int:
    return sum([len(passage.text) + len(passage.title) + _PER_PASSAGE for passage in passages])
