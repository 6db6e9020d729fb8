"""The chat completion that a server sends back, as a reply. Whatever it holds, what is made of it is well-formed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from relabel.clients.errors import read_json
from relabel.records import Reply, Token, Usage
from relabel.text import well_formed

_FAR = 1e6
"""No log probability is that far from zero; some servers write -9999 for hardly any."""


_DIGITS = 9
"""No call takes a number of tokens with more."""


def reply_of(content: bytes, seconds: float, mask: Callable[[str], str] = str) -> Reply | None:
    """A reply from a chat completion, without what `mask` takes out; None from anything else with status 200."""
    return reply_from(read_json(content), seconds, mask)


def reply_from(found: object, seconds: float, mask: Callable[[str], str] = str) -> Reply | None:
    """The same from what the JSON holds."""
    payload = found if isinstance(found, dict) else {}
    choices = payload.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        return None

    def word(value: object) -> str | None:
        found = _word(value)
        return mask(found) if found else None

    return Reply(
        "ok",
        mask(_text(message.get("content"))),
        word(choice.get("finish_reason")),
        word(message.get("refusal")),
        word(message.get("reasoning_content") or message.get("reasoning")),
        model=word(payload.get("model")) or "",
        fingerprint=word(payload.get("system_fingerprint")),
        usage=_usage(payload.get("usage")),
        seconds=seconds,
        logprobs=_tokens(choice.get("logprobs")),
    )


def _text(content: object) -> str:
    if isinstance(content, list):
        return "".join(_word(part.get("text")) or "" for part in content if isinstance(part, dict))
    return _word(content) or ""


def _word(value: object) -> str | None:
    return well_formed(value) if isinstance(value, str) and value else None


def _usage(usage: object) -> Usage:
    if not isinstance(usage, dict):
        return Usage()
    details = usage.get("prompt_tokens_details")
    prompt = _count(usage.get("prompt_tokens"))
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else 0
    return Usage(prompt, min(cached, prompt), _count(usage.get("completion_tokens")))


def _count(value: object) -> int:
    """A number of tokens, in whatever type it comes; what cannot be one is none."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < _DIGITS:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 < value < 10**_DIGITS else 0


def _tokens(logprobs: object) -> tuple[Token, ...] | None:
    """The probabilities of a reply's tokens; None where a server gives none, or others than were asked for."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(content, list) or not content:
        return None
    tokens = []
    for one in content:
        token = _alternative(one)
        if token is None:
            return None
        others = one.get("top_logprobs")
        top = [_alternative(other) for other in others] if isinstance(others, list) else []
        tokens.append(Token(*token, tuple(other for other in top if other is not None)))
    return tuple(tokens)


def _alternative(one: Any) -> tuple[str, float] | None:
    if not isinstance(one, dict) or not isinstance(one.get("token"), str):
        return None
    logprob = one.get("logprob")
    if not isinstance(logprob, (int, float)) or isinstance(logprob, bool) or not -_FAR < logprob < _FAR:
        return None
    return well_formed(one["token"]), round(float(logprob), 6)
