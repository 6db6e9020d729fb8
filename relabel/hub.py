"""Put an exported folder on the Hugging Face hub.

`place_of` reads where to, `push` uploads: all files in one commit, to a dataset repository that is made private where
there is none yet. huggingface_hub does the work, with its own HF_ENDPOINT, HF_TOKEN and login.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import quote, unquote

from relabel.errors import ConfigError, RelabelError, RunStopped
from relabel.text import printable, without_credentials

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_FORM = "hf://[datasets/]owner/name[@revision][/folder]"
_OTHERS = ("models", "spaces", "kernels", "buckets")
_REVISION = re.compile(r"(?!.*\.\.)(?!.*//)\w(?:[\w.+/-]*[\w+-])?", re.ASCII)
_REFS = re.compile(r"refs/(?:pr|convert)/[^/]+")
_PASSING = (408, 425, 429)
_CLASHES = (409, 412)
_XET_STATUS = re.compile(r"HTTP status \w+ error \((\d{3})")
_NO_GITIGNORE = "# every file that is pushed is meant\n"
_LOG_IN = "Run `hf auth login`, or set HF_TOKEN to a token that may write (https://huggingface.co/settings/tokens)."
_AGAIN = "Push again later: what has been uploaded is not uploaded twice."


@dataclass(frozen=True, slots=True)
class Place:
    """Where on the hub: a dataset repository, a revision (None for the main one), and a folder ("" for the root)."""

    repo_id: str
    revision: str | None = None
    folder: str = ""

    def __str__(self) -> str:
        """The `hf://` text that names this place."""
        revision = self.revision or ""
        at = revision if _REFS.fullmatch(revision) else quote(revision, safe="")
        return f"hf://datasets/{self.repo_id}" + (f"@{at}" if at else "") + (f"/{self.folder}" if self.folder else "")


def place_of(to: str) -> Place:
    """The place that `hf://[datasets/]owner/name[@revision][/folder]` names; a `/` in a revision is written %2F."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    if not to.startswith("hf://"):
        _misnamed(to, "this does not begin with hf://")
    first, *rest = to.removeprefix("hf://").removesuffix("/").split("/")
    if first in _OTHERS:
        _misnamed(to, f"this names one of the hub's {first}, and a cleaned set goes into a dataset")
    parts = rest if first == "datasets" else [first, *rest]
    if len(parts) < 2 or not parts[0]:
        _misnamed(to, "the owner or the name is missing")
    owner, name, *folder = parts
    name, at, revision = name.partition("@")
    if revision == "refs" and len(folder) > 1:  # refs/pr/3 is written plainly
        revision, folder = "/".join(["refs", *folder[:2]]), folder[2:]
    revision = unquote(revision)
    try:
        validate_repo_id(f"{owner}/{name}")
    except HFValidationError as fault:
        _misnamed(to, str(fault).rstrip("."))
    if at and not _REVISION.fullmatch(revision):
        _misnamed(to, f"the revision {revision!r} is no name of a branch")
    if any(part in ("", ".", "..") or "\\" in part or not part.isprintable() for part in folder):
        _misnamed(to, f"the folder {'/'.join(folder)!r} has an empty part, `.`, `..`, `\\` or a control character")
    return Place(f"{owner}/{name}", revision or None, "/".join(folder))


def _misnamed(to: str, found: str) -> NoReturn:
    raise ConfigError(
        f"{without_credentials(to)!r}: {found}. Expected {_FORM}, for example hf://datasets/me/cleaned@v2/train."
    )


def push(place: Place, files: Mapping[str, Path], message: str, say: Callable[[str], None] = print) -> str:
    """Upload files in one commit and return its URL; the keys are paths within the place, the values files or folders.

    Files that are there already with the same content are left alone; without any change, the URL is that of the last
    commit. Files that are there and not among `files` stay.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    from relabel import __version__

    wanted = _wanted(place, files)
    with _told(place) as secret, _quietly():
        secret.append(_token())
        api = HfApi(_endpoint(), token=secret[0], library_name="relabel", library_version=__version__)
        _make_ready(api, place, say)
        additions = [CommitOperationAdd(path, source) for path, source in wanted.items()]
        api.preupload_lfs_files(
            place.repo_id,
            additions,
            repo_type="dataset",
            revision=place.revision,
            free_memory=False,
            gitignore_content=_NO_GITIGNORE,
        )
        done = api.create_commit(
            place.repo_id, additions, commit_message=message, repo_type="dataset", revision=place.revision
        )
        return str(done.commit_url)


def _wanted(place: Place, files: Mapping[str, Path]) -> dict[str, Path]:
    """Every single file by its path in the repository."""
    found: dict[str, Path] = {}
    for name, source in files.items():
        if name.startswith("/") or ".." in PurePosixPath(name).parts:
            raise ConfigError(f"{name!r} leads out of {place}. Expected a path within it.")
        if not source.exists():
            raise ConfigError(f"{source}: there is no such file or folder to push. Export again, or leave it out.")
        for one in sorted(source.rglob("*")) if source.is_dir() else [source]:
            path = PurePosixPath(place.folder, name, one.relative_to(source).as_posix()).as_posix()
            if one.is_dir():
                continue
            if path in found:
                raise ConfigError(f"{found[path]} and {one} would both become {path} in {place}. Leave one out.")
            found[path] = one
    if not found:
        raise ConfigError(f"There is no file to push to {place}. Export first.")
    return found


def _endpoint() -> str | None:
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
    if endpoint is not None and not re.match(r"https?://\w", endpoint):
        raise ConfigError(f"HF_ENDPOINT is {endpoint!r}. Set it to a URL such as https://huggingface.co, or unset it.")
    return endpoint


def _token() -> str:
    from huggingface_hub import get_token

    token = get_token()
    if token is None:
        raise ConfigError(f"There is no token for the hub. {_LOG_IN}")
    if not re.fullmatch(r"[!-~]+", token):
        raise ConfigError(f"The token for the hub has characters that no token has. {_LOG_IN}")
    return token


def _make_ready(api: HfApi, place: Place, say: Callable[[str], None]) -> None:
    """Make the repository and the revision where they are missing."""
    if not api.repo_exists(place.repo_id, repo_type="dataset"):
        api.create_repo(place.repo_id, repo_type="dataset", private=True)
        say(f"Made the dataset {place.repo_id}, private.")
    if place.revision is None or api.revision_exists(place.repo_id, place.revision, repo_type="dataset"):
        return
    api.create_branch(place.repo_id, branch=place.revision, repo_type="dataset", exist_ok=True)
    say(f"Made the branch {place.revision} of {place.repo_id}.")


@contextmanager
def _quietly() -> Iterator[None]:
    """No progress bars where nobody sees them, unless HF_HUB_DISABLE_PROGRESS_BARS says otherwise."""
    from huggingface_hub import constants
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    said = constants.HF_HUB_DISABLE_PROGRESS_BARS is not None
    if said or sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


@contextmanager
def _told(place: Place) -> Iterator[list[str]]:
    """Turn whatever fails into an error of relabel's, without the secrets that the block puts into the list."""
    secrets: list[str] = []
    try:
        yield secrets
    except RelabelError:
        raise
    except Exception as fault:
        kind, text = _meaning(place, fault)
        for secret in secrets:
            text = text.replace(secret, "***")
        raise kind(printable(text)) from None


def _meaning(place: Place, fault: BaseException) -> tuple[type[RelabelError], str]:
    """The kind and the text of the error to raise for a fault."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(fault, ValueError) and not isinstance(fault, json.JSONDecodeError):
        return ConfigError, f"{place}: {' '.join(str(fault).split())}"
    causes = [fault]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    for cause in causes:
        if isinstance(cause, HfHubHTTPError):
            return _refusal(place, cause.response.status_code, cause.server_message or str(cause))
        if isinstance(cause, OfflineModeIsEnabled):
            return ConfigError, f"{place}: HF_HUB_OFFLINE is set, so nothing can be pushed. Unset it, and push again."
    fault = causes[-1]
    said = " ".join(str(fault).split()) or type(fault).__name__
    if isinstance(fault, (json.JSONDecodeError, KeyError)):
        return RunStopped, f"{place}: what answers is not the hub ({said}). Check the network and HF_ENDPOINT."
    if isinstance(fault, OSError) and fault.filename is not None:
        return ConfigError, f"{fault.filename}: cannot be read ({fault.strerror}). Make it readable, and push again."
    xet = _XET_STATUS.search(said)
    if xet is not None and xet[1] == "404" and "xet-write-token" in said:
        return ConfigError, f"{place}: this hub has no Xet storage ({said}). Set HF_HUB_DISABLE_XET=1, and push again."
    if xet is not None:
        return _refusal(place, int(xet[1]), said)
    return RunStopped, f"{place}: the hub cannot be reached ({said}). Check the network and HF_ENDPOINT. {_AGAIN}"


def _refusal(place: Place, status: int, said: str) -> tuple[type[RelabelError], str]:
    """What an HTTP status of the hub means."""
    found = f"{status}: {' '.join(said.split())[:500]}"
    if status == 401:
        return ConfigError, f"{place}: the hub does not accept the token ({found}). {_LOG_IN}"
    if status == 403:
        return ConfigError, f"{place}: the token may not write there ({found}). Name another owner. Or: {_LOG_IN}"
    if status == 404:
        return ConfigError, f"{place}: the hub cannot find it ({found}). Check the name, the revision and HF_ENDPOINT."
    if status in _CLASHES:
        return RunStopped, f"{place}: somebody else changed it at the same time ({found}). Push again."
    if status >= 500 or status in _PASSING:
        return RunStopped, f"{place}: the hub cannot take it now ({found}). {_AGAIN}"
    return ConfigError, f"{place}: the hub does not take it ({found}). Change what it names, and push again."
