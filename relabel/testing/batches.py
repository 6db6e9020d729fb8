"""A server with OpenAI's Batch API on loopback."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

from relabel.testing.server import Answer, Handler, ReplyServer, completion

Hook = Callable[[web.Request], "web.StreamResponse | Awaitable[web.StreamResponse | None] | None"]
_PAGE = 20
_ENDED = ("completed", "failed", "expired", "cancelled")


@dataclass(slots=True)
class _Batch:
    """A batch at the server: the account and the lines it was made of, and what became of it."""

    id: str
    account: str
    file: str
    metadata: dict[str, Any]
    begun: float
    lines: list[dict[str, Any]]
    status: str = "validating"
    output: str | None = None
    errors: str | None = None
    faults: list[dict[str, Any]] = field(default_factory=list)
    done: int = 0


class BatchServer(ReplyServer):
    """A ReplyServer that takes files and batches, too, and answers their lines through the same handler.

    A batch takes `takes` seconds. `expires` says of which requests (by a line's body) the batch expires unanswered,
    `refuses` gives the fault (code and message) for which a batch with these lines fails as a whole. An Answer with
    another status than 200 goes into the error file. `before` and `after` are told of every request for files and
    batches, and may answer in the server's place. Accounts, told apart by the key, do not see each other's things.

    `server.paid` counts by custom_id what was answered with status 200, `server.batches` are all batches,
    `server.files` all files there are.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        takes: float = 0.0,
        expires: Callable[[dict[str, Any]], bool] = lambda _: False,
        refuses: Callable[[list[dict[str, Any]]], tuple[str, str] | None] = lambda _: None,
        before: Hook = lambda _: None,
        after: Hook = lambda _: None,
        **options: Any,
    ) -> None:
        super().__init__(handler, **options)
        self.takes = takes
        self.paid: Counter[str] = Counter()
        self.batches: dict[str, _Batch] = {}
        self.files: dict[str, tuple[str, bytes]] = {}
        self._expires, self._refuses = expires, refuses
        self._before, self._after = before, after
        self._made = 0

    def add_routes(self, app: web.Application) -> None:
        """Say which paths are served."""
        super().add_routes(app)
        for method, path, answer in (
            ("POST", "/v1/files", self._upload),
            ("GET", "/v1/files/{id}/content", self._content),
            ("DELETE", "/v1/files/{id}", self._delete),
            ("POST", "/v1/batches", self._create),
            ("GET", "/v1/batches", self._list),
            ("GET", "/v1/batches/{id}", self._retrieve),
            ("POST", "/v1/batches/{id}/cancel", self._cancel),
        ):
            app.router.add_route(method, path, self._hooked(answer))

    def _hooked(self, answer: Callable[[web.Request], Awaitable[web.Response]]) -> Any:
        async def respond(request: web.Request) -> web.StreamResponse:
            for step in (self._before, answer, self._after):
                found = step(request)
                given = await found if inspect.isawaitable(found) else found
                if step is answer:
                    response = given
                elif given is not None:
                    return given
            assert response is not None
            return response

        return respond

    def _name(self, kind: str) -> str:
        self._made += 1
        return f"{kind}-{self._made:06d}"

    def _add_file(self, account: str, content: bytes) -> str:
        name = self._name("file")
        self.files[name] = (account, content)
        return name

    async def _upload(self, request: web.Request) -> web.Response:
        content, purpose = b"", ""
        async for part in await request.multipart():
            if getattr(part, "name", "") == "file":
                content = await part.read()  # type: ignore[union-attr]
            elif getattr(part, "name", "") == "purpose":
                purpose = await part.text()  # type: ignore[union-attr]
        if purpose != "batch":
            return _error(400, "invalid_purpose", f"the purpose is {purpose!r}")
        name = self._add_file(_account(request), content)
        return web.json_response({"id": name, "object": "file", "bytes": len(content), "purpose": purpose})

    async def _content(self, request: web.Request) -> web.Response:
        account, content = self.files.get(request.match_info["id"], ("", b""))
        return web.Response(body=content) if account == _account(request) else _missing("file", request)

    async def _delete(self, request: web.Request) -> web.Response:
        name = request.match_info["id"]
        if self.files.get(name, ("", b""))[0] != _account(request):
            return _missing("file", request)
        del self.files[name]
        return web.json_response({"id": name, "object": "file", "deleted": True})

    async def _create(self, request: web.Request) -> web.Response:
        asked = await request.json()
        account, content = self.files.get(asked["input_file_id"], ("", b""))
        if account != _account(request):
            return _error(400, "invalid_file", f"no such file: {asked['input_file_id']}")
        lines = [orjson.loads(line) for line in content.splitlines()]
        one = _Batch(self._name("batch"), account, asked["input_file_id"], asked["metadata"], time.monotonic(), lines)
        self.batches[one.id] = one
        wrong = self._refuses(lines)
        if len({line["body"]["model"] for line in lines}) != 1:
            wrong = ("mismatched_model", "the lines name several models")
        if len({line["custom_id"] for line in lines}) != len(lines):
            wrong = ("duplicate_custom_id", "a custom_id stands there twice")
        if wrong is not None:
            one.status, one.faults = "failed", [{"code": wrong[0], "message": wrong[1], "line": None, "param": None}]
        return web.json_response(_shown(one))

    async def _list(self, request: web.Request) -> web.Response:
        mine = [one for one in reversed(self.batches.values()) if one.account == _account(request)]
        after = request.query.get("after")
        start = next((place for place, one in enumerate(mine, 1) if one.id == after), 0)
        page = mine[start : start + min(_PAGE, int(request.query.get("limit", _PAGE)))]
        found = [_shown(one) for one in page]
        return web.json_response({"object": "list", "data": found, "has_more": start + len(page) < len(mine)})

    async def _retrieve(self, request: web.Request) -> web.Response:
        one = self.batches.get(request.match_info["id"])
        if one is None or one.account != _account(request):
            return _missing("batch", request)
        if one.status not in _ENDED and time.monotonic() - one.begun >= self.takes:
            await self._work(one, len(one.lines))
        elif one.status == "validating":
            one.status = "in_progress"
        return web.json_response(_shown(one))

    async def _cancel(self, request: web.Request) -> web.Response:
        """Half of the requests have been answered by now."""
        one = self.batches.get(request.match_info["id"])
        if one is None or one.account != _account(request):
            return _missing("batch", request)
        if one.status not in _ENDED:
            await self._work(one, len(one.lines) // 2)
            one.status = "cancelled"
        return web.json_response(_shown(one))

    async def _work(self, one: _Batch, most: int) -> None:
        """Answer the first `most` lines of a batch; the others have been cancelled."""
        output: list[bytes] = []
        errors: list[bytes] = []
        one.status = "completed"
        for nth, line in enumerate(one.lines):
            if nth >= most or self._expires(line["body"]):
                why = "batch_cancelled" if nth >= most else "batch_expired"
                one.status = "expired" if nth < most else one.status
                errors.append(_line(line, None, {"code": why, "message": "This request was not executed."}))
                continue
            found = self._handler(line["body"])
            answer = await found if inspect.isawaitable(found) else found
            answer = Answer(answer) if isinstance(answer, str) else answer
            self.asked[line["body"]["model"]] += 1
            body = answer.body if answer.body is not None else completion(line["body"], answer)
            response = {"status_code": answer.status, "request_id": f"req-{nth}", "body": body}
            (output if answer.status == 200 else errors).append(_line(line, response, None))
            self.paid[line["custom_id"]] += answer.status == 200
        one.done = len(output)
        one.output = self._add_file(one.account, b"".join(output)) if output else None
        one.errors = self._add_file(one.account, b"".join(errors)) if errors else None
        await asyncio.sleep(0)


def _account(request: web.Request) -> str:
    return request.headers.get("Authorization", "nobody")


def _shown(one: _Batch) -> dict[str, Any]:
    return {
        "id": one.id,
        "object": "batch",
        "endpoint": "/v1/chat/completions",
        "input_file_id": one.file,
        "completion_window": "24h",
        "status": one.status,
        "output_file_id": one.output,
        "error_file_id": one.errors,
        "errors": {"object": "list", "data": one.faults} if one.faults else None,
        "created_at": 1_700_000_000,
        "metadata": one.metadata,
        "request_counts": {"total": len(one.lines), "completed": one.done, "failed": 0},
    }


def _line(asked: Mapping[str, Any], response: Mapping[str, Any] | None, error: Mapping[str, Any] | None) -> bytes:
    line = {"id": "batch_req", "custom_id": asked["custom_id"], "response": response, "error": error}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def _missing(kind: str, request: web.Request) -> web.Response:
    return _error(404, "not_found", f"no such {kind}: {request.match_info['id']}")


def _error(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"error": {"code": code, "message": message}}, status=status)
