"""The lines of a batch's files, as OpenAI's Batch API and `vllm run-batch` have them. Pure.

Whatever an output file holds, each of its lines is told to be a reply, a complaint, or nothing that can be read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from relabel.clients.errors import Complaint, complaint, read_json
from relabel.clients.wire import reply_from
from relabel.records import Reply, Request
from relabel.text import well_formed

_LARGEST = 32 << 20
"""More bytes than any line has."""


@dataclass(frozen=True, slots=True)
class Line:
    """What a line says: whose request it answers, and what came back."""

    key: str
    found: Reply | Complaint


def request_line(request: Request, body: dict[str, Any]) -> bytes:
    """The line that asks for a reply."""
    whole = body | {"messages": orjson.Fragment(request.messages_json)}
    line = {"custom_id": request.key, "method": "POST", "url": "/v1/chat/completions", "body": whole}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def read_lines(path: Path, mask: Callable[[str], str] = str) -> Iterator[tuple[int, Line | None]]:
    """Each line with its number; None for one that says nothing about any request. Empty ones are left out.

    Raises OSError.
    """
    number = 0
    with path.open("rb") as file:
        while raw := file.readline(_LARGEST):
            number += 1
            if len(raw) == _LARGEST and not raw.endswith(b"\n"):
                while (rest := file.readline(_LARGEST)) and not rest.endswith(b"\n"):
                    pass
                yield number, None
            elif raw.strip():
                yield number, read_line(raw, mask)


def read_line(raw: bytes, mask: Callable[[str], str] = str) -> Line | None:
    """What one line says."""
    found = read_json(raw)
    key = found.get("custom_id") if isinstance(found, dict) else None
    if not isinstance(found, dict) or not isinstance(key, str):
        return None
    key, response, error = well_formed(key), found.get("response"), found.get("error")
    if not isinstance(response, dict):
        return Line(key, complaint(0, {}, _json(error), mask)) if error else None
    status, body = response.get("status_code"), response.get("body")
    if type(status) is not int:
        status = 0 if error else 200
    if status == 200 and not error and (reply := reply_from(body, 0.0, mask)) is not None:
        return Line(key, reply)
    return Line(key, complaint(status, {}, _json(error or body), mask))


def _json(value: object) -> bytes:
    try:
        return json.dumps(value).encode()
    except RecursionError:
        return b""
