"""Whatever stands in an output file: each request gets its reply, or word that there is none, and that once."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relabel.clients.batches import lines as reader
from relabel.clients.batches.intake import Intake
from relabel.clients.batches.lines import read_line, read_lines, request_line
from relabel.clients.batches.spool import Spool
from relabel.clients.dialect import Dialect
from relabel.clients.errors import Complaint
from relabel.records import Call, Reply
from relabel.testing import Answer, completion
from tests.clients.shared import request

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 999) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
CALLS = [Call(request(f"question {n}", temperature=0.0), "t", "local", "p") for n in range(6)]
KEYS = [call.request.key for call in CALLS]


def line(key: object, response: object, error: object = None) -> bytes:
    return orjson.dumps({"id": "1", "custom_id": key, "response": response, "error": error})


def replied(number: int, text: str = "yes") -> bytes:
    body = completion({"model": "m", "messages": CALLS[number].request.messages}, Answer(text))
    return line(KEYS[number], {"status_code": 200, "request_id": "r", "body": body})


def failed(number: int, status: int) -> bytes:
    return line(KEYS[number], {"status_code": status, "body": {"error": {"message": "context length exceeded"}}})


class TestLine:
    def test_with_a_completion_is_a_reply(self) -> None:
        found = read_line(replied(2, "so"))
        assert found is not None
        assert isinstance(found.found, Reply)
        assert (found.key, found.found.text, found.found.usage.completion) == (KEYS[2], "so", 0)

    @pytest.mark.parametrize(
        ("raw", "complaint"),
        [
            (failed(1, 400), Complaint(400, "", "context length exceeded")),
            (
                line("k", {"status_code": 429, "body": None}, {"error": {"message": "m", "code": 429}}),
                Complaint(429, "", "m"),
            ),
            (line("k", {"status_code": 400}, "in words"), Complaint(400, "", "in words")),
            (line("k", None, {"code": "batch_expired", "message": "late"}), Complaint(0, "batch_expired", "late")),
        ],
    )
    def test_with_an_error_is_a_complaint(self, raw: bytes, complaint: Complaint) -> None:
        found = read_line(raw)
        assert found is not None
        assert found.found == complaint

    @pytest.mark.parametrize(
        "raw", [b"", b"[]", b"{", b"\xff\xfe", b'{"custom_id": 3}', b'{"custom_id": "a"}', b"[" * 10**5]
    )
    def test_that_says_nothing_of_any_request_is_none(self, raw: bytes) -> None:
        assert read_line(raw) is None

    @settings(deadline=None)
    @given(st.binary() | st.builds(lambda *of: line("k", *of), JSON, JSON) | JSON.map(orjson.dumps))
    def test_of_any_kind_raises_nothing(self, raw: bytes) -> None:
        read_line(raw)

    def test_of_a_request_holds_its_key_and_body(self) -> None:
        asked = CALLS[0].request
        found = orjson.loads(request_line(asked, Dialect().body(asked)[1]))
        assert (found["custom_id"], found["method"], found["url"]) == (KEYS[0], "POST", "/v1/chat/completions")
        assert found["body"] == {"model": "m", "messages": list(asked.messages), "temperature": 0.0}

    def test_that_is_endless_is_passed_over(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reader, "_LARGEST", 1000)
        (tmp_path / "out").write_bytes(b"x" * 5000 + b"\n\n" + replied(1) + b"\n")
        assert [(number, found is None) for number, found in read_lines(tmp_path / "out")] == [(1, True), (3, False)]


class Books:
    """Keeps what it is told to store."""

    def __init__(self) -> None:
        self.stored: list[tuple[str, Reply | None]] = []

    def admit(self, call: Call, *, sent: bool = False) -> bool:
        return True

    async def store(self, call: Call, reply: Reply | None) -> None:
        self.stored.append((call.request.key, reply))


LINES = st.one_of(
    st.builds(replied, st.integers(0, 5), st.sampled_from(["yes", "no", "ünï", "😀"])),
    st.builds(failed, st.integers(0, 5), st.sampled_from([400, 429, 500])),
    st.builds(lambda number, of: line(KEYS[number], of), st.integers(0, 5), JSON),
    st.builds(lambda key: line(key, {"status_code": 200, "body": {}}), JSON),
    st.just(b'{"custom_id": "\\ud800", "response": null, "error": "?"}'),
    st.binary(max_size=40).map(lambda raw: raw.replace(b"\n", b" ")),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(LINES, max_size=12), st.booleans(), st.integers(0, 5))
def test_a_file_settles_each_call_once_and_takes_the_first_word_on_it(
    written: list[bytes], whole_line: bool, ends: int
) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        content = b"\n".join(written) + (b"\n" if whole_line else b"")
        (folder / "out").write_bytes(content[: len(content) - (0 if whole_line else ends)])
        spool, books = Spool(folder, "local"), Books()
        for call in CALLS:
            spool.put(call)
        spool.flush()
        part = spool.add(1, "m", "", KEYS, told=True)
        first: dict[str, Any] = {}
        for _, found in read_lines(folder / "out"):
            if found is not None:
                first.setdefault(found.key, found.found)

        async def take() -> None:
            intake = Intake(spool, part, books, Dialect(), print)
            await intake.read(folder / "out")
            await intake.read(folder / "out")
            await intake.rest("nothing", counts=True)

        asyncio.run(take())
        assert sorted(key for key, _ in books.stored) == sorted(KEYS)
        for key, reply in books.stored:
            if isinstance(first.get(key), Reply):
                assert reply is not None
                assert reply.text == first[key].text
            else:
                assert reply is None or reply.status == "refused"
        spool.finish(part)
        assert {call.request.key for call in spool.pending(3)} == set()
        for call in CALLS:
            spool.put(call)
        spool.flush()
        answered = {key for key, reply in books.stored if reply is not None}
        assert {call.request.key for call in spool.pending(3)} == set(KEYS)
        assert spool.given_up(1)[0] == len(KEYS) - len(answered)
        spool.close()
