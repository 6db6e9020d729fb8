"""How a model wants a request put, as its replies show it: no question is asked just to find out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from relabel.clients.errors import EXTRAS, Complaint, is_plain
from relabel.parsing import json_of, read_object
from relabel.records import Reply, Request

_PROOF = 2
"""So many times must a server's own failure go away without a parameter, or a parameter show no effect from the first
reply on, before that is laid on the parameter. A plain refusal is proof by itself.
"""

_TRIALS = 3
"""Requests that fail with and without what they can do without; after that many no more is tried."""


@dataclass(slots=True)
class Dialect:
    """Which parameters a model does not take, takes under another name, or ignores."""

    renamed: dict[str, str] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)
    taken: set[str] = field(default_factory=set)
    """Parameters that a request can do without, and that it has answered with."""
    _unseen: Counter[str] = field(default_factory=Counter)
    _seen: set[str] = field(default_factory=set)
    _relieved: Counter[frozenset[str]] = field(default_factory=Counter)
    _vain: int = 0

    @property
    def name(self) -> str:
        """What deviates from the plain request, in words that a ledger can keep."""
        if not self.renamed and not self.dropped:
            return ""
        parts = [f"{old}={new}" for old, new in sorted(self.renamed.items()) if old not in self.dropped]
        return " ".join(parts + [f"-{name}" for name in sorted(self.dropped)])

    @classmethod
    def named(cls, name: str) -> Dialect:
        """The dialect with this name, as far as it says what is sent."""
        parts = [part for part in name.split() if not part.startswith("~")]
        renamed = dict(part.split("=", 1) for part in parts if "=" in part)
        return cls(renamed, {part.removeprefix("-") for part in parts if part.startswith("-")})

    def name_of(self, spoken: str, sent: Mapping[str, Any]) -> str:
        """The name of the dialect in which a request was put, with what of it the model has been found to ignore."""
        return " ".join(
            filter(None, [spoken, *(f"~{name}" for name in EXTRAS if name in sent and self._ignores(name))])
        )

    def body(self, request: Request, without: frozenset[str] = frozenset()) -> tuple[str, dict[str, Any]]:
        """The name of the dialect, and the request as it is posted, without these parameters for once."""
        dropped = self.dropped | _with_kin(without)
        parts = [self.name, *(f"-{name}" for name in sorted(dropped - self.dropped))]
        body: dict[str, Any] = {"model": request.model, "messages": request.messages}
        for parameter, value in request.sampling.items():
            if parameter not in dropped:
                body[self.renamed.get(parameter, parameter)] = value
        if request.reply_schema is not None and "response_format" not in dropped:
            body["response_format"] = {"type": "json_schema", "json_schema": request.reply_schema}
        return " ".join(filter(None, parts)), body

    def optional(self) -> set[str]:
        """Parameters that a request can do without, as they are sent."""
        known = {"max_tokens", "temperature", "top_p", "seed", "response_format", "logprobs", "top_logprobs"}
        return known | set(self.renamed.values())

    def learn(self, name: str) -> bool:
        """Rename a parameter where another name is known, or else leave it out; False if that has been learnt."""
        before = self.name
        if name == "max_tokens":
            self.renamed[name] = "max_completion_tokens"
        else:
            self.dropped |= _with_kin({next((old for old, new in self.renamed.items() if new == name), name)})
        return self.name != before

    def may_be_to_blame(self, sent: Mapping[str, Any], fault: Complaint) -> bool:
        """Whether an error may be for a parameter that a request can do without, and that the model has never answered
        with: some servers do not say so.
        """
        return bool(self._unproven(sent)) and not is_plain(fault) and fault.status != 200 and self._vain < _TRIALS

    def _unproven(self, sent: Mapping[str, Any]) -> list[str]:
        return [name for name in EXTRAS if name in sent and name not in self.taken]

    def trials(self, sent: Mapping[str, Any], fault: Complaint) -> list[frozenset[str]]:
        """What to leave out, one after the other, to see whether the error goes away."""
        if not self.may_be_to_blame(sent, fault):
            return []
        each = [frozenset({name}) for name in self._unproven(sent)]
        return [*each, frozenset().union(*each)] if len(each) > 1 else each

    def tried_in_vain(self, sent: Mapping[str, Any]) -> None:
        """A request that failed has failed without what it can do without, too."""
        self._vain += bool(self._unproven(sent))

    def heard(
        self, request: Request, sent: Mapping[str, Any], reply: Reply, fault: Complaint | None = None
    ) -> Iterator[str]:
        """Learn from a reply; yields what is found out, in words, each thing once.

        It came once something had been left out of the request that had failed with this `fault`.
        """
        self.taken |= EXTRAS.keys() & sent.keys()
        if fault is not None:
            _, whole = self.body(request)
            without = frozenset(EXTRAS.keys() & (whole.keys() - sent.keys()))
            self._relieved[without] += 1
            if self._relieved[without] >= (_PROOF if fault.status >= 500 else 1) and not without & self.taken:
                for name in sorted(without):
                    if self.learn(name):
                        yield f"does not take {name!r}: left out ({fault})"
        if reply.finish_reason not in (None, "stop") or reply.refusal or (not reply.text.strip() and reply.reasoning):
            return  # a reply that is no whole answer shows nothing
        if "response_format" in sent and self._shows("response_format", _keeps_to(request, reply)):
            yield (
                "takes 'response_format' but does not keep to it: the prompt asks for the form in words, and what is "
                "not in that form abstains"
            )
        if "logprobs" in sent and reply.text and self._shows("logprobs", reply.logprobs is not None):
            yield "takes 'logprobs' but gives none: confidence comes from samples, if the judge asks for several"

    def _shows(self, parameter: str, effect: bool) -> bool:
        """Whether this reply is the one that shows that a parameter has no effect."""
        if effect:
            self._seen.add(parameter)
            return False
        self._unseen[parameter] += 1
        return self._unseen[parameter] == _PROOF and self._ignores(parameter)

    def _ignores(self, parameter: str) -> bool:
        """Whether replies that might have shown an effect of a parameter never did."""
        return self._unseen[parameter] > 0 and parameter not in self._seen and parameter not in self.dropped


def _with_kin(names: Collection[str]) -> set[str]:
    """`top_logprobs` is nothing without `logprobs`, nor the other way round."""
    kin = {"logprobs", "top_logprobs"}
    return {*names, *kin} if kin & set(names) else set(names)


def _keeps_to(request: Request, reply: Reply) -> bool:
    """Whether a reply has the keys that the request's schema asks for."""
    properties = (request.reply_schema or {})["schema"]["properties"]
    return read_object(json_of(reply.text)[1], properties) is not None
