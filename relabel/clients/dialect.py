"""How a model wants a request put, as its replies show it: no question is asked just to find out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from relabel.parsing import json_of, read_object
from relabel.records import Reply, Request

_PROOF = 2
"""So many errors that went away without `response_format` show that it was their cause."""


@dataclass(slots=True)
class Dialect:
    """Which parameters a model does not take, takes under another name, or ignores."""

    renamed: dict[str, str] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)
    ignored: set[str] = field(default_factory=set)
    _kept: set[str] = field(default_factory=set)
    _taken: bool = False
    _relieved: int = 0

    @property
    def name(self) -> str:
        """What deviates from the plain request, in words that a ledger can keep."""
        if not self.renamed and not self.dropped:
            return ""
        parts = [f"{old}={new}" for old, new in sorted(self.renamed.items()) if old not in self.dropped]
        return " ".join(parts + [f"-{name}" for name in sorted(self.dropped)])

    def name_of(self, spoken: str) -> str:
        """The name of the dialect in which a request was put, with what the model has been found to ignore of it."""
        return " ".join(filter(None, [spoken, *(f"~{name}" for name in sorted(self.ignored - self.dropped))]))

    def body(self, request: Request, *, plain: bool = False) -> tuple[str, dict[str, Any]]:
        """The name of the dialect, and the request as it is posted; `plain` without `response_format`."""
        name = self.name
        body: dict[str, Any] = {"model": request.model, "messages": request.messages}
        for parameter, value in request.sampling.items():
            if parameter not in self.dropped:
                body[self.renamed.get(parameter, parameter)] = value
        if request.reply_schema is not None and "response_format" not in self.dropped:
            if plain:
                name = f"{name} -response_format".strip()
            else:
                body["response_format"] = {"type": "json_schema", "json_schema": request.reply_schema}
        return name, body

    def optional(self) -> set[str]:
        """Parameters that a request can do without, as they are sent."""
        known = {"max_tokens", "temperature", "top_p", "seed", "response_format", "logprobs", "top_logprobs"}
        return known | set(self.renamed.values())

    def learn(self, name: str) -> bool:
        """Rename a parameter where another name is known, or else leave it out; False if that has been learnt."""
        before = self.name
        if name == "max_tokens":
            self.renamed[name] = "max_completion_tokens"
        elif name in ("logprobs", "top_logprobs"):
            self.dropped |= {"logprobs", "top_logprobs"}
        else:
            self.dropped.add(next((old for old, new in self.renamed.items() if new == name), name))
        return self.name != before

    def may_be_too_much(self, sent: Mapping[str, Any]) -> bool:
        """Whether an error of the server may be for `response_format`, which some fail at instead of refusing it."""
        return "response_format" in sent and not self._taken

    def heard(self, request: Request, sent: Mapping[str, Any], reply: Reply, *, plain: bool) -> Iterator[str]:
        """Learn from a reply; yields what is found out, in words, each thing once.

        A model ignores a parameter if its first replies show nothing of it. That one reply among many does not is
        no more than a faulty reply.
        """
        if plain:
            self._relieved += 1
            if self._relieved == _PROOF and self.learn("response_format"):
                yield "fails at 'response_format': left out; the prompt asks for the form in words"
        if reply.finish_reason not in (None, "stop") or reply.refusal or not reply.text.strip():
            return  # a reply that is no whole answer shows nothing
        if "response_format" in sent:
            self._taken = True
            if self._ignores("response_format", _keeps_to(request, reply)):
                yield (
                    "takes 'response_format' but does not keep to it: the prompt asks for the form in words, and what "
                    "is not in that form abstains"
                )
        if "logprobs" in sent and self._ignores("logprobs", reply.logprobs is not None):
            yield "takes 'logprobs' but gives none: confidence comes from samples, if the judge asks for several"

    def _ignores(self, parameter: str, kept: bool) -> bool:
        """Whether this reply is the one that shows that a parameter is ignored."""
        if kept:
            self._kept.add(parameter)
        if kept or parameter in self._kept or parameter in self.ignored:
            return False
        self.ignored.add(parameter)
        return True


def _keeps_to(request: Request, reply: Reply) -> bool:
    """Whether a reply has the keys that the request's schema asks for."""
    properties = (request.reply_schema or {})["schema"]["properties"]
    return read_object(json_of(reply.text)[1], properties) is not None
