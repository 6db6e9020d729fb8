"""What an OpenAI-compatible server's errors mean: try again, this request is refused, or nothing will ever work."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from relabel.errors import RunStopped
from relabel.text import without_credentials

_UNSUPPORTED = re.compile(
    r"unsupported|not supported|does not support|unrecognized|unknown|not permitted", re.IGNORECASE
)
EXTRAS: Mapping[str, re.Pattern[str]] = {
    "response_format": re.compile(r"response_format|json_schema|structured.?output|guided|grammar", re.IGNORECASE),
    "logprobs": re.compile(r"log.?prob", re.IGNORECASE),
}
"""Parameters that a request can always do without, and words of errors that are about them."""

_ABOUT_THE_WORDS = re.compile(
    r"context.?(length|window|size)|maximum context|too long|too many tokens|content.?(filter|policy)|safety",
    re.IGNORECASE,
)
"""Words of errors that are about what was asked, however the server may answer otherwise."""

_TOO_LARGE = re.compile(r"request too large", re.IGNORECASE)
"""Words of a 429 that no wait will heal: the request alone is more than a minute's tokens."""

_WRONG_KEY = re.compile(
    r"(incorrect|invalid|missing|expired) api[ _-]?key|api[ _-]?key (is )?(not valid|invalid|expired)", re.IGNORECASE
)
_WRONG_MODEL = re.compile(
    r"not a valid model|invalid model name|model\b.{0,100}\b(does not exist|not found|not exist)", re.IGNORECASE
)
_NO_CREDIT = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "account_deactivated")


class Again(Exception):
    """This attempt failed and the next may not; `after` says how many seconds the server asked to wait.

    `too_many` says that it failed for other requests. `advice` is for whoever has never had a reply from there: then it
    may be the wrong address. If it is `fatal`, so to speak, no request will ever work unless it was a slip.
    """

    def __init__(
        self,
        message: str,
        after: float | None = None,
        *,
        too_many: bool = False,
        advice: str = "",
        fatal: bool = False,
    ) -> None:
        super().__init__(message)
        self.after = after
        self.too_many = too_many
        self.advice = advice
        self.fatal = fatal


class Refused(Exception):
    """The server will not answer this very request: it is too long, or its filter objects. That is a reply, too."""


@dataclass(frozen=True, slots=True)
class Complaint:
    """A response with an error, in the server's words but for the caller's key, should it repeat that.

    `wait` and `seconds` are those that it asks to wait, and those that it took.
    """

    status: int
    code: str = ""
    message: str = ""
    param: str | None = None
    wait: float | None = None
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"status {self.status}: {self.message}" if self.message else f"status {self.status}"


def complaint(status: int, headers: Mapping[str, str], content: bytes, mask: Callable[[str], str] = str) -> Complaint:
    """What a response says, whichever of the usual shapes its error has, without what `mask` takes out."""

    def plain(text: object, length: int = 500) -> str:
        try:
            words = str(text)
        except RecursionError:  # an object in an object in an object…
            return ""
        return mask(without_credentials(" ".join(words.encode("utf-8", "replace").decode().split())))[:length]

    payload = read_json(content)
    if isinstance(payload, list) and payload:
        payload = payload[0]
    error = payload.get("error", payload) if isinstance(payload, dict) else payload
    if not isinstance(error, dict):
        error = {"message": error if isinstance(error, str) and error else content.decode(errors="replace")}
    code = next((error[name] for name in ("code", "type") if isinstance(error.get(name), str)), "")
    param = error.get("param")
    said = error.get("message") or error.get("detail") or ""
    if status == 200 and isinstance(payload, dict) and payload.get("error"):  # some say so with status 200
        meant = error.get("code")
        status = meant if type(meant) is int and 400 <= meant < 600 else 500
    return Complaint(
        status, plain(code, 80), plain(_in_words(said)), param if isinstance(param, str) else None, retry_after(headers)
    )


def _in_words(said: object) -> object:
    """FastAPI's list of faults as a sentence, without the input that it repeats."""
    faults = said.get("detail", said) if isinstance(said, dict) else said
    if not isinstance(faults, list):
        return faults
    return "; ".join(
        f"{_place(fault.get('loc'))}: {fault.get('msg', '')}" for fault in faults if isinstance(fault, dict)
    )


def _place(loc: object) -> str:
    return ".".join(map(str, loc)) if isinstance(loc, list) else str(loc or "")


def classify(fault: Complaint) -> Again | Refused | RunStopped:
    """What a response with an error means."""
    if fault.status == 401 or (fault.status == 400 and _WRONG_KEY.search(fault.message)):
        return RunStopped(
            f"{_sentence(fault)} Check the key in OPENAI_API_KEY, or in the variable that api_key_env names."
        )
    if fault.status in (402, 403) or fault.code in _NO_CREDIT:
        return RunStopped(f"{_sentence(fault)} The account may not use this; see to it there, then run again.")
    wrong_model = fault.code == "model_not_found" or _WRONG_MODEL.search(fault.message)
    if fault.status in (404, 410) or (fault.status == 400 and wrong_model):
        return RunStopped(f"{_sentence(fault)} Check the tier's model and the client's base_url.")
    if fault.status == 429 and _TOO_LARGE.search(fault.message):
        return Refused(f"{fault.code}: {fault.message}" if fault.code else str(fault))
    if fault.status in (408, 409, 425, 429) or (fault.status >= 500 and fault.status != 501):
        return Again(str(fault), fault.wait, too_many=fault.status == 429)
    if 400 <= fault.status < 500 and fault.status != 405:
        return Refused(f"{fault.code}: {fault.message}" if fault.code else str(fault))
    return RunStopped(f"{_sentence(fault)} That is no chat completions API; check base_url.")


def _sentence(fault: Complaint) -> str:
    return f"{str(fault).rstrip('. ')}."


def is_plain(fault: Complaint) -> bool:
    """Whether an error says what it is about, and that is no parameter: the request's words, the key, the model, the
    account, or the server's load.
    """
    return bool(
        fault.status in (401, 402, 408, 409, 425, 429, 503, 504, 529)
        or fault.wait is not None
        or fault.param
        or fault.code in ("model_not_found", *_NO_CREDIT)
        or any(words.search(fault.message) for words in (_WRONG_KEY, _WRONG_MODEL, _ABOUT_THE_WORDS))
        or _ABOUT_THE_WORDS.search(fault.code)
    )


def unsupported(fault: Complaint, body: Mapping[str, Any], taken: Collection[str] = ()) -> str | None:
    """The parameter of `body` that the model does not take, if that is what the error says.

    It says so by its `param`; by its code or words, with the parameter's name; or, of what a request can always do
    without and the model has not `taken` before, by any words that speak of it.
    """
    names = sorted(body.keys() - {"model", "messages"})
    if fault.param:
        named = next((name for name in names if name in fault.param), None)
        return named if fault.status in (400, 403, 422) and (named in EXTRAS or _refuses(fault)) else None
    if fault.status in (400, 422) and _refuses(fault):
        for name in names:
            if re.search(rf"\b{re.escape(name)}\b", fault.message):
                return name
    if fault.status not in (200, 400, 403, 422, 500, 501) or is_plain(fault):
        return None
    return next(
        (n for n, words in EXTRAS.items() if n in body and n not in taken and words.search(fault.message)), None
    )


def _refuses(fault: Complaint) -> bool:
    """Whether an error is about a parameter at all."""
    return fault.code.startswith("unsupported") or bool(_UNSUPPORTED.search(fault.message))


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
            except (ValueError, TypeError, OverflowError, IndexError):
                continue
        if math.isfinite(seconds):
            return min(max(seconds, 0.0), 3600.0)
    return None


def read_json(content: bytes) -> Any:
    """What a server sent, or None if it is not JSON. NaN, halves of surrogate pairs and wrong UTF-8 are let pass."""
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        try:
            return json.loads(content.decode(errors="replace"))
        except (ValueError, RecursionError):
            return None
