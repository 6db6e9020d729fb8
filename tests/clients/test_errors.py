"""What a server's error means decides whether a request is repeated, given up, or the whole run with it."""

from __future__ import annotations

import json
import time
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relabel.clients.errors import Again, Complaint, Refused, classify, complaint, read_json, retry_after, unsupported
from relabel.clients.target import Target
from relabel.errors import RunStopped

NOW = 1_700_000_000
BODY = {"model": "m", "messages": [], "max_tokens": 9, "temperature": 0.0, "seed": 1, "top_k": 5}


def said(status: int, payload: Any, *secrets: str) -> Complaint:
    content = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return complaint(status, {}, content, Target("", {}, secrets).masked)


def error(message: str, code: str | int | None = None, **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, "code": code, **fields}}


def extra_forbidden(*names: str) -> list[dict[str, Any]]:
    """What FastAPI says of fields it does not know; it repeats what it was given."""
    fault = {"type": "extra_forbidden", "msg": "Extra inputs are not permitted"}
    return [{**fault, "loc": ["body", name], "input": "the temperature is unknown"} for name in names]


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
def test_a_passing_trouble_is_worth_another_attempt(status: int) -> None:
    assert isinstance(classify(said(status, error("come back later"))), Again)


@pytest.mark.parametrize(
    ("status", "payload", "advice"),
    [
        (401, error("wrong key"), "Check the key in OPENAI_API_KEY"),
        (400, error("Incorrect API key provided: sk-1***2."), "Check the key in OPENAI_API_KEY"),
        (400, [error("API key not valid. Please pass a valid API key.", 400)], "Check the key in OPENAI_API_KEY"),
        (402, error("Insufficient Balance"), "account"),
        (403, error("Country not supported"), "account"),
        (429, error("You exceeded your current quota", "insufficient_quota"), "account"),
        (400, error("Billing hard limit has been reached", "billing_hard_limit_reached"), "account"),
        (404, error("The model `m` does not exist", "model_not_found"), "model"),
        (400, error("x/y is not a valid model ID", 400), "model"),
        (400, {"object": "error", "message": "The model `m` does not exist.", "code": 400}, "model"),
        (405, {"detail": "Method Not Allowed"}, "base_url"),
        (301, b"", "base_url"),
    ],
)
def test_what_would_fail_every_request_stops_the_run_and_says_what_to_do(
    status: int, payload: Any, advice: str
) -> None:
    found = classify(said(status, payload))
    assert isinstance(found, RunStopped)
    assert advice in str(found)


@pytest.mark.parametrize(
    ("status", "payload", "words"),
    [
        (400, error("too long", "context_length_exceeded"), "context_length_exceeded: too long"),
        (400, error("filtered", "content_filter"), "content_filter: filtered"),
        (
            400,
            {"message": "maximum context length is 9", "type": "BadRequestError", "code": 400},
            "BadRequestError: max",
        ),
        (413, b"<html>Request Entity Too Large</html>", "status 413: <html>"),
        (422, {"detail": [{"loc": ["body", "messages"], "msg": "too long", "type": "x"}]}, "body.messages: too long"),
        (400, b"", "status 400"),
    ],
)
def test_what_is_wrong_with_this_request_alone_refuses_it(status: int, payload: Any, words: str) -> None:
    found = classify(said(status, payload))
    assert isinstance(found, Refused)
    assert words in str(found)


@pytest.mark.parametrize(
    ("payload", "name"),
    [
        (error("Unsupported parameter: 'max_tokens'", "unsupported_parameter", param="max_tokens"), "max_tokens"),
        (error("'temperature' does not support 0.0", "unsupported_value", param="temperature"), "temperature"),
        (error("Unknown parameter: 'seed'."), "seed"),
        ([error('Invalid JSON payload. Unknown name "seed": Cannot find field.', 400)], "seed"),
        ({"detail": extra_forbidden("seed")}, "seed"),
        ({"object": "error", "message": {"detail": extra_forbidden("seed")}}, "seed"),
        ({"message": "[{'type': 'extra_forbidden', 'loc': ('body', 'seed'), 'msg': 'not permitted'}]"}, "seed"),
        (error("Unrecognized request argument supplied: top_k"), "top_k"),
        (error("too large", "invalid_value", param="max_tokens"), None),
        (error("Unsupported parameter: 'stop'", "unsupported_parameter", param="stop"), None),
        (error("Unknown role in messages of model m"), None),
        ({"detail": extra_forbidden("messages")}, None),
    ],
)
def test_finds_the_parameter_that_a_model_does_not_take(payload: Any, name: str | None) -> None:
    assert unsupported(said(422, payload), BODY) == name
    assert unsupported(said(500, payload), BODY) is None


def test_only_a_parameter_that_was_sent_is_left_out() -> None:
    assert unsupported(said(400, error("Unknown parameter: 'seed'.")), {"model": "m", "messages": []}) is None


@pytest.mark.parametrize(
    "payload",
    [
        error("the key sk-secret is wrong"),
        error("wrong", "sk-secret"),
        b"<p>sk-secret</p>",
        {"detail": "Bearer sk-secret"},
        error("x" * 495 + "sk-secret"),
    ],
)
def test_a_key_is_never_repeated_nor_part_of_it(payload: Any) -> None:
    assert "sk-s" not in str(classify(said(401, payload, "sk-secret")))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "7", "retry-after-ms": "20"}, 0.02),
        ({"retry-after": formatdate(NOW + 100, usegmt=True)}, 100),
        ({"retry-after": formatdate(NOW - 100, usegmt=True)}, 0),
        ({"retry-after": "999999"}, 3600),
        ({"retry-after": "-1"}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({}, None),
    ],
)
def test_reads_how_long_to_wait(
    headers: dict[str, str], seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)
    assert retry_after(headers) == seconds


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d+ \d+:\d+:\d+ [-+A-Z0-9]+"))
def test_no_retry_after_makes_it_raise(value: str) -> None:
    found = retry_after({"retry-after": value})
    assert found is None or 0 <= found <= 3600


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["error", "message", "detail", "code", "param"]), inner)
    ),
    max_leaves=8,
)


@given(st.integers(201, 599), JSON.map(lambda value: json.dumps(value).encode()) | st.binary())
def test_no_response_makes_it_raise(status: int, content: bytes) -> None:
    found = complaint(status, {}, content, str)
    unsupported(found, BODY)
    assert isinstance(classify(found), Again | Refused | RunStopped)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b'["\\ud800"]', ["\ud800"]),
        (b'["\xff"]', ["\ufffd"]),
        (b"[Infinity]", [float("inf")]),
        (b"<html>", None),
        (b"", None),
        (b"[" * 100_000, None),
    ],
)
def test_json_is_read_as_leniently_as_servers_write_it(content: bytes, found: Any) -> None:
    assert read_json(content) == found
