"""What an OpenAI-compatible server's errors mean: try again, this request is refused, or nothing will ever work."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from relabel.errors import RunStopped

_OPTIONAL = ("max_tokens", "temperature", "top_p", "seed")
"""Parameters that a request can do without, or whose name differs between models."""

_UNSUPPORTED = re.compile(
    r"unsupported|not supported|does not support|unrecognized|unknown|not permitted", re.IGNORECASE
)


class Again(Exception):
    """This attempt failed and the next may not; `after` says how many seconds the server asked to wait."""

    def __init__(self, message: str, after: float | None = None, *, no_contact: bool = False) -> None:
        super().__init__(message)
        self.after = after
        self.no_contact = no_contact


class Refused(Exception):
    """The server will not answer this very request: it is too long, or its filter objects. That is a reply, too."""


def classify(status: int, payload: Any, message: str, wait: float | None) -> Again | Refused | RunStopped:
    """What a response with this status means."""
    code = _field(payload, "code") or _field(payload, "type") or ""
    shown = f"status {status}: {message}" if message else f"status {status}"
    if status == 401:
        return RunStopped(f"{shown}. The key is wrong: check OPENAI_API_KEY, or the variable that api_key_env names.")
    if status in (402, 403) or code in ("insufficient_quota", "billing_hard_limit_reached"):
        return RunStopped(f"{shown}. The account may not use this; see to it there, then run again.")
    if status == 404:
        return RunStopped(f"{shown}. Check the tier's model and the client's base_url.")
    if status in (408, 409, 425, 429) or status >= 500:
        return Again(shown, wait)
    if 400 <= status < 500:
        return Refused(f"{code}: {message}" if code else shown)
    return RunStopped(f"{shown}. That is no chat completions API; check base_url.")


def unsupported(status: int, payload: Any, body: Mapping[str, Any]) -> str | None:
    """The optional parameter of `body` that the model does not take, if that is what the error says."""
    if status not in (400, 422):
        return None
    said = str(_field(payload, "message") or payload)
    code = str(_field(payload, "code") or "")
    if not (code.startswith("unsupported") or _UNSUPPORTED.search(said)):
        return None
    named = _field(payload, "param")
    for name in _OPTIONAL:
        if name in body and (named == name or (not named and re.search(rf"\b{name}\b", said))):
            return name
    return None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from `retry-after-ms` or `Retry-After` (seconds or an HTTP date); at most an hour."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * unit
        except ValueError:
            try:
                seconds = parsedate_to_datetime(value).timestamp() - time.time()
            except ValueError:
                continue
        return min(max(seconds, 0.0), 3600.0)
    return None


def _field(payload: Any, name: str) -> Any:
    error = payload.get("error", payload) if isinstance(payload, dict) else None
    return error.get(name) if isinstance(error, dict) else None
