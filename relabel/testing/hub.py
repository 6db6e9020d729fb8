"""The part of the Hugging Face hub that takes datasets, on loopback."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from hashlib import sha1, sha256
from typing import Literal

import orjson
import yaml
from aiohttp import web

from relabel.testing.server import ReplyServer

_LARGE = 10 << 20
_LFS = (".parquet", ".arrow", ".bin", ".gz", ".zst", ".zip", ".safetensors")
_SAID = {
    401: "Invalid credentials in Authorization header",
    403: "You don't have the rights to create a dataset under this namespace",
    404: "Sorry, we can't find the page you are looking for.",
    409: "Another commit happened at the same time",
    429: "Too many requests",
    500: "Internal Error - We're working hard to fix this as soon as possible!",
}

_Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit that a FakeHub took, with the paths that it wrote."""

    repo_id: str
    revision: str
    message: str
    paths: tuple[str, ...]
    oid: str


@dataclass(slots=True)
class _Told:
    status: int | Literal["drop"]
    times: int
    on: str


class _Refused(Exception):
    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


class FakeHub(ReplyServer):
    """`with FakeHub() as hub:` serves `hub.url`, a Hugging Face hub for datasets that keeps all in memory.

    It speaks the hub's API of repositories, branches and commits, and git LFS for large and binary files. It has no Xet
    storage, so a client needs HF_HUB_DISABLE_XET; huggingface_hub reads that when it is imported, so where it has been
    imported already, set `huggingface_hub.constants.HF_HUB_DISABLE_XET`. Requests without its `token` are refused with
    401; None lets everybody in.

    `hub.files[repo_id][revision][path]` is the content of a file, `hub.private[repo_id]` says who sees a repository,
    `hub.commits` are the commits and `hub.requests` the methods and paths of all requests, both in their order.
    """

    def __init__(self, *, token: str | None = "hf_fake", port: int = 0) -> None:
        super().__init__(lambda _: "", port=port)
        self.token = token
        self.files: dict[str, dict[str, dict[str, bytes]]] = {}
        self.private: dict[str, bool] = {}
        self.commits: list[Commit] = []
        self.requests: list[str] = []
        self._heads: dict[tuple[str, str], str] = {}
        self._objects: dict[str, bytes] = {}
        self._told: list[_Told] = []

    @property
    def url(self) -> str:
        """What to set HF_ENDPOINT to."""
        return self.azure_endpoint

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which a new process uses this hub."""
        return {"HF_ENDPOINT": self.url, "HF_TOKEN": self.token or "hf_any", "HF_HUB_DISABLE_XET": "1"}

    def add(self, repo_id: str, files: Mapping[str, bytes] | None = None, *, private: bool = False) -> None:
        """Have a repository before anybody pushes."""
        self.files[repo_id] = {"main": dict(files or {})}
        self.private[repo_id] = private
        self._heads[repo_id, "main"] = sha1(repo_id.encode()).hexdigest()

    def fail(self, status: int | Literal["drop"], times: int = 1, on: str = "") -> None:
        """Answer the next requests whose path holds `on` with an error status, or drop their connections."""
        self._told.append(_Told(status, times, on))

    def add_routes(self, app: web.Application) -> None:
        """Say which paths are served."""
        app.middlewares.append(self._guard)
        repo = "/api/datasets/{owner}/{name}"
        for method, path, answer in (
            ("POST", "/api/repos/create", self._create),
            ("POST", "/api/validate-yaml", self._validate),
            ("GET", repo, self._info),
            ("GET", repo + "/revision/{revision}", self._info),
            ("POST", repo + "/branch/{revision}", self._branch),
            ("POST", repo + "/preupload/{revision}", self._preupload),
            ("POST", repo + "/commit/{revision}", self._commit),
            ("POST", "/datasets/{owner}/{name}.git/info/lfs/objects/batch", self._batch),
            ("PUT", "/lfs/{oid}", self._upload),
            ("POST", "/lfs/{oid}/verify", self._verify),
        ):
            app.router.add_route(method, path, answer)

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Answering) -> web.StreamResponse:
        if request.path == "/api/agent-harnesses":  # the client asks this at most once a day, so never in a given order
            return web.json_response({"standardEnvVars": [], "harnesses": {}})
        self.requests.append(f"{request.method} {request.path}")
        try:
            told = next((one for one in self._told if one.times and one.on in request.path), None)
            if told is not None:
                told.times -= 1
                if told.status == "drop":
                    return _dropped(request)
                raise _Refused(told.status, _SAID.get(told.status, "told to fail"))
            signed = request.method == "PUT"  # a URL to upload to is signed, and needs no token
            if not signed and self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
                raise _Refused(401, _SAID[401])
            return await handler(request)
        except _Refused as refused:
            headers = {"X-Error-Message": refused.message} | ({"X-Error-Code": refused.code} if refused.code else {})
            return web.json_response({"error": refused.message}, status=refused.status, headers=headers)

    def _repo(self, request: web.Request) -> str:
        repo_id = f"{request.match_info['owner']}/{request.match_info['name']}"
        if repo_id not in self.files:
            raise _Refused(404, "Repository not found", "RepoNotFound")
        return repo_id

    def _revision(self, request: web.Request) -> tuple[str, str]:
        repo_id, revision = self._repo(request), request.match_info.get("revision", "main")
        if revision not in self.files[repo_id]:
            raise _Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return repo_id, revision

    async def _create(self, request: web.Request) -> web.Response:
        asked = await request.json()
        repo_id = f"{asked['organization']}/{asked['name']}"
        if asked["type"] != "dataset":
            raise _Refused(400, f"this hub has datasets only, and no {asked['type']}")
        if repo_id in self.files:
            raise _Refused(409, "You already created this dataset repo")
        self.add(repo_id, private=asked.get("visibility") == "private" or asked.get("private") is True)
        return web.json_response({"url": f"{self.url}/datasets/{repo_id}", "name": repo_id})

    async def _validate(self, request: web.Request) -> web.Response:
        content = (await request.json())["content"]
        head = content.split("---\n")[1] if content.startswith("---\n") else ""
        try:
            yaml.safe_load(head)
        except yaml.YAMLError:
            errors = [{"message": "YAML metadata cannot be read"}]
            return web.json_response({"errors": errors, "warnings": []}, status=400)
        return web.json_response({"errors": [], "warnings": []})

    async def _info(self, request: web.Request) -> web.Response:
        repo_id, revision = self._revision(request)
        names = [{"rfilename": path} for path in sorted(self.files[repo_id][revision])]
        head = self._heads[repo_id, revision]
        return web.json_response({"id": repo_id, "sha": head, "private": self.private[repo_id], "siblings": names})

    async def _branch(self, request: web.Request) -> web.Response:
        repo_id, branch = self._repo(request), request.match_info["revision"]
        start = (await request.json()).get("startingPoint", "main")
        if branch in self.files[repo_id]:
            raise _Refused(409, f"Reference already exists: refs/heads/{branch}")
        if start not in self.files[repo_id]:
            raise _Refused(404, f"Invalid rev id: {start}", "RevisionNotFound")
        self.files[repo_id][branch] = dict(self.files[repo_id][start])
        self._heads[repo_id, branch] = self._heads[repo_id, start]
        return web.json_response({}, status=201)

    async def _preupload(self, request: web.Request) -> web.Response:
        """How each file is to be sent, and what is there of it."""
        repo_id, revision = self._revision(request)
        there, asked = self.files[repo_id][revision], await request.json()
        ignored = asked.get("gitIgnore", there.get(".gitignore", b"").decode()).splitlines()
        files = []
        for one in asked["files"]:
            path, sample = one["path"], base64.b64decode(one["sample"])
            large = one["size"] > _LARGE or b"\0" in sample or path.endswith(_LFS)
            files.append(
                {
                    "path": path,
                    "uploadMode": "lfs" if large else "regular",
                    "shouldIgnore": any(fnmatch(path, pattern) for pattern in ignored),
                    "oid": _oid(there[path], large) if path in there else None,
                }
            )
        return web.json_response({"files": files})

    async def _batch(self, request: web.Request) -> web.Response:
        """Where to upload the objects that are not there yet."""
        self._repo(request)
        asked = orjson.loads(await request.read())
        objects = []
        for one in asked["objects"]:
            to = f"{self.url}/lfs/{one['oid']}"
            actions = {"upload": {"href": to}, "verify": {"href": f"{to}/verify"}}
            objects.append(dict(one) if one["oid"] in self._objects else {**one, "actions": actions})
        return web.json_response({"transfer": "basic", "objects": objects})

    async def _upload(self, request: web.Request) -> web.Response:
        content = await request.read()
        if sha256(content).hexdigest() != request.match_info["oid"]:
            raise _Refused(400, "the content is not that of this object")
        self._objects[request.match_info["oid"]] = content
        return web.Response()

    async def _verify(self, request: web.Request) -> web.Response:
        size = (await request.json())["size"]
        if len(self._objects.get(request.match_info["oid"], b"")) != size:
            raise _Refused(404, "there is no such object")
        return web.Response()

    async def _commit(self, request: web.Request) -> web.Response:
        repo_id, revision = self._revision(request)
        message, written = "", {}
        for line in (await request.read()).splitlines():
            entry = orjson.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                message = value["summary"]
            elif entry["key"] == "file":
                written[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile" and value["oid"] in self._objects:
                written[value["path"]] = self._objects[value["oid"]]
            else:
                raise _Refused(400, f"this line cannot be committed: {entry['key']} {value.get('path')!a}")
        oid = sha1(f"{len(self.commits)} {repo_id} {revision} {message}".encode()).hexdigest()
        self.files[repo_id][revision] |= written
        self._heads[repo_id, revision] = oid
        self.commits.append(Commit(repo_id, revision, message, tuple(written), oid))
        url = f"{self.url}/datasets/{repo_id}/commit/{oid}"
        return web.json_response({"success": True, "commitOid": oid, "commitUrl": url})


def _oid(content: bytes, large: bool) -> str:
    """What the hub calls a file: by its content in LFS, or by git's blob."""
    return sha256(content).hexdigest() if large else sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _dropped(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
