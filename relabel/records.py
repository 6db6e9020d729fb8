"""The data that flows through a run, in the words of the field. Frozen types, no logic beyond their identity.

source -> Instance (query, positives, candidates) -> Call -> Reply -> Verdict -> Decision, gathered in an Outcome.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import Any, Literal, NamedTuple, TypeVar

import orjson

Action = Literal["relabel", "drop", "keep"]
InstanceAction = Literal["keep", "remove"]


class Passage(NamedTuple):
    """A text that may answer a query. Its identity is (title, text); the docid is only a name for it."""

    docid: str
    title: str
    text: str
    score: float | None = None

    @property
    def identity(self) -> tuple[str, str]:
        """What makes two passages the same passage."""
        return (self.title, self.text)


@dataclass(frozen=True, slots=True)
class Instance:
    """One training instance. `negatives` are the candidates: the passages under judgement.

    `line` is the 1-based number of its (first) record in the source; `origin` belongs to the format that read it.
    """

    line: int
    query_id: str
    query: str
    positives: tuple[Passage, ...]
    negatives: tuple[Passage, ...]
    subset: str = ""
    origin: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Quarantined:
    """An input record that cannot be used: where it stood, why, and the record itself."""

    line: int
    reason: str
    record: Any


@dataclass(frozen=True)
class Request:
    """One question to a model, before any server's dialect.

    `sampling` holds what shapes the reply (temperature, top_p, max_tokens, seed, and whatever `extra_body` adds);
    `sample` tells apart repeated questions with the same words. Addresses, keys and time-outs are not part of it.
    """

    model: str
    messages: tuple[Mapping[str, str], ...]
    sampling: Mapping[str, Any]
    reply_schema: Mapping[str, Any] | None = None
    sample: int = 0
    model_revision: str | None = None

    @cached_property
    def messages_json(self) -> bytes:
        """The messages as canonical JSON, made once for the key and for the wire."""
        return orjson.dumps(self.messages, option=orjson.OPT_SORT_KEYS)

    @cached_property
    def key(self) -> str:
        """The request's name in every ledger: 32 hex digits of the BLAKE2b hash of its canonical JSON."""
        logical: dict[str, Any] = {
            "model": self.model,
            "messages": orjson.Fragment(self.messages_json),
            "sampling": self.sampling,
            "reply_schema": self.reply_schema,
            "sample": self.sample,
        }
        if self.model_revision is not None:
            logical["model_revision"] = self.model_revision
        return blake2b(orjson.dumps(logical, option=orjson.OPT_SORT_KEYS), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call, as the server counted them. `cached` is the part of `prompt` read from a cache."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0


class Token(NamedTuple):
    """A token of a reply, its natural log probability, and the most likely tokens in its place with theirs."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back for a request, raw.

    `status` is "ok" for a completion (whatever its finish_reason) and "refused" when the server would not answer this
    very request (context length, content filter); then `text` is empty and `error` says why. `logprobs` are there if
    they were asked for and the server gave them. `engine` is what ran the model, as far as that is known.
    """

    status: Literal["ok", "refused"]
    text: str = ""
    finish_reason: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    error: str | None = None
    model: str = ""
    fingerprint: str | None = None
    dialect: str = ""
    usage: Usage = Usage()
    seconds: float = 0.0
    logprobs: tuple[Token, ...] | None = None
    engine: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """A request with its address: the client that shall answer it and the tier and prompt that ask.

    An `optional` call is answered only if the ledger holds its reply; it is never sent.
    """

    request: Request
    tier: str
    client: str
    prompt: str
    optional: bool = False


T = TypeVar("T")
Asking = Generator[Sequence[Call], Sequence[Reply | None], T]
"""Code that asks by yielding calls and is sent their replies, None where there is none (yet).

Whoever drives it decides where replies come from: the ledger, a server, a batch file. It does no I/O itself.
"""


ScoreKind = Literal["similarity", "logprobs", "samples", "orders", "probability"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one judge says of one passage: a `label`, or none and the reason why it `abstained`.

    What the `score` is, `score_kind` says: how near a screen found the passage to its yardstick ("similarity"; all that
    it measured is in `signals`); or, in [0, 1], that it is a false negative as a calibration has it ("probability"),
    the probability of the label by its tokens' ("logprobs"; `outside` is the mass that no label accounts for), or the
    share of `samples` or `orders` that agree on it, whose `votes` are counted by label or reason of abstention.
    `evidence` is what the passage says, `offset` where in its text that stands
    (0-based, in characters), or where the judged window of a long passage begins; `found` is what came back in the
    place of a verdict. `key` names the reply that decided, `keys` all where there are several.
    """

    tier: str
    judge: str
    model: str | None
    label: str | None
    abstained: str | None = None
    score: float | None = None
    score_kind: ScoreKind | None = None
    outside: float | None = None
    votes: Mapping[str, int] | None = None
    evidence: str | None = None
    offset: int | None = None
    found: str | None = None
    key: str | None = None
    keys: tuple[str, ...] | None = None
    signals: Mapping[str, float] | None = None

    def __hash__(self) -> int:
        return hash((self.key, self.label))


UNANSWERED = "unanswered"
"""The reason of a verdict that waits for a reply which is not in the ledger yet."""


Verdicts = tuple[Verdict, ...]
"""All that was said of one passage, first tier first."""


@dataclass(slots=True)
class Case:
    """An instance under judgement, with what has been said so far of its candidates and, by some judges, its positives.

    `kind` names the criteria of its subset; None leaves it unjudged.
    """

    instance: Instance
    kind: str | None
    candidates: list[Verdicts]
    positives: list[Verdicts]


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one candidate, the rule that said so, and the verdicts it rests on."""

    action: Action
    rule: str
    reason: str
    verdicts: Verdicts = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """An instance with what was decided about it: one decision per candidate, in order, and one for the whole.

    `positives` are the verdicts on its positives, in order, where a judge was asked about them.
    """

    instance: Instance
    action: InstanceAction
    rule: str
    decisions: tuple[Decision, ...]
    positives: tuple[Verdicts, ...] = ()

    def places(self, action: Action) -> list[int]:
        """The 0-based places of the candidates with this action."""
        return [place for place, decision in enumerate(self.decisions) if decision.action == action]

    @property
    def changed(self) -> bool:
        """Whether the cleaned set differs from the source at this instance."""
        return self.action == "remove" or any(d.action != "keep" for d in self.decisions)
