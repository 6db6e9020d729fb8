"""What reaches the hub, where it goes, and what is said when it does not."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants, get_session
from huggingface_hub.utils.tqdm import are_progress_bars_disabled

from relabel.errors import ConfigError, RelabelError, RunStopped
from relabel.hub import Place, place_of, push
from relabel.testing import FakeHub
from tests.conftest import HUB_TOKEN

# huggingface_hub calls its HTTP client in a deprecated way
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

TOKEN = HUB_TOKEN
HERE = Place("me/cleaned")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text"
    path.write_text("a text\n", encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An export with every kind of file."""
    export = tmp_path / "export"
    (export / "deep" / "er").mkdir(parents=True)
    (export / "README.md").write_text("---\nlicense: mit\n---\n# Cleaned\n", encoding="utf-8")
    (export / "large.bin").write_bytes(random.Random(0).randbytes(11 << 20))
    (export / "empty.jsonl").touch()
    (export / "deep" / "er" / "with a space.txt").write_text("one\r\ntwo", encoding="utf-8")
    (export / "deep" / "Größe 検索.jsonl").write_text('{"q": "ü"}\n', encoding="utf-8")
    pq.write_table(pa.table({"query": ["a", "b"]}), export / "deep" / "train.parquet")
    return export


def contents(folder: Path) -> dict[str, bytes]:
    return {one.relative_to(folder).as_posix(): one.read_bytes() for one in folder.rglob("*") if one.is_file()}


# what arrives


def test_every_file_arrives_byte_for_byte_in_one_commit(hub: FakeHub, folder: Path) -> None:
    url = push(HERE, {"": folder}, "Clean the set", say=lambda _: None)
    assert hub.files["me/cleaned"]["main"] == contents(folder)
    assert [(one.repo_id, one.revision, one.message) for one in hub.commits] == [
        ("me/cleaned", "main", "Clean the set")
    ]
    assert url == f"{hub.url}/datasets/me/cleaned/commit/{hub.commits[0].oid}"
    assert sum(request.startswith("PUT /lfs/") for request in hub.requests) == 2  # the large one and the Parquet


def test_files_and_folders_go_under_their_keys_within_the_folder_of_the_place(
    hub: FakeHub, folder: Path, text: Path
) -> None:
    push(
        Place("me/cleaned", folder="runs/3"), {"notes.txt": text, "data": folder / "deep"}, "Clean", say=lambda _: None
    )
    wanted = {f"runs/3/data/{name}": content for name, content in contents(folder / "deep").items()}
    assert hub.files["me/cleaned"]["main"] == wanted | {"runs/3/notes.txt": text.read_bytes()}


def test_the_same_again_uploads_nothing_and_commits_nothing(hub: FakeHub, folder: Path) -> None:
    first = push(HERE, {"": folder}, "Clean", say=lambda _: None)
    hub.requests.clear()
    assert push(HERE, {"": folder}, "Clean", say=lambda _: None) == first
    assert len(hub.commits) == 1
    assert not [request for request in hub.requests if request.startswith("PUT")]


def test_only_what_changed_is_committed_and_what_is_not_pushed_stays(hub: FakeHub, folder: Path) -> None:
    hub.add("me/cleaned", {"other.txt": b"mine"})
    push(HERE, {"": folder}, "Clean")
    (folder / "empty.jsonl").write_text("{}\n", encoding="utf-8")
    push(HERE, {"": folder}, "Clean again")
    assert hub.commits[1].paths == ("empty.jsonl",)
    assert hub.files["me/cleaned"]["main"] == contents(folder) | {"other.txt": b"mine"}


def test_a_gitignore_on_the_hub_leaves_nothing_out(hub: FakeHub, folder: Path) -> None:
    hub.add("me/cleaned", {".gitignore": b"*.parquet\n*.jsonl\n"})
    push(HERE, {"": folder}, "Clean")
    assert hub.files["me/cleaned"]["main"].keys() == contents(folder).keys() | {".gitignore"}


# where it arrives


def test_a_new_repository_is_private_and_that_is_said(hub: FakeHub, text: Path) -> None:
    said: list[str] = []
    push(HERE, {"a.txt": text}, "Clean", say=said.append)
    assert hub.private == {"me/cleaned": True}
    assert said == ["Made the dataset me/cleaned, private."]


@pytest.mark.parametrize("private", [False, True])
def test_who_sees_an_existing_repository_is_left_alone(hub: FakeHub, text: Path, private: bool) -> None:
    hub.add("me/cleaned", private=private)
    said: list[str] = []
    push(HERE, {"a.txt": text}, "Clean", say=said.append)
    assert hub.private == {"me/cleaned": private}
    assert said == []


@pytest.mark.parametrize("revision", ["v2", "tries/7"])
def test_a_revision_that_is_missing_is_made_from_the_main_one(hub: FakeHub, text: Path, revision: str) -> None:
    hub.add("me/cleaned", {"old.txt": b"old"})
    said: list[str] = []
    for _ in range(2):
        push(Place("me/cleaned", revision), {"a.txt": text}, "Clean", say=said.append)
    assert hub.files["me/cleaned"][revision] == {"old.txt": b"old", "a.txt": b"a text\n"}
    assert hub.files["me/cleaned"]["main"] == {"old.txt": b"old"}
    assert said == [f"Made the branch {revision} of me/cleaned."]


def test_the_endpoint_and_the_token_are_those_of_the_moment(
    hub: FakeHub, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeHub(token="hf_other") as other:
        monkeypatch.setenv("HF_ENDPOINT", other.url + "/")
        monkeypatch.delenv("HF_TOKEN")
        (tmp_path / "login").write_text("hf_other\n", encoding="utf-8")
        push(HERE, {"a.txt": text}, "Clean", say=lambda _: None)
    assert other.files["me/cleaned"]["main"] == {"a.txt": b"a text\n"}
    assert hub.requests == []


def test_progress_bars_are_as_they_were_before(hub: FakeHub, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = are_progress_bars_disabled()
    push(HERE, {"": folder}, "Clean", say=lambda _: None)
    assert are_progress_bars_disabled() == before
    assert "%" not in capfd.readouterr().err


# what is said when it does not arrive


@pytest.mark.parametrize(
    ("status", "on", "kind", "said"),
    [
        (401, "", ConfigError, r"does not accept the token \(401: .*`hf auth login`.*HF_TOKEN"),
        (403, "repos/create", ConfigError, r"may not write there \(403: .*owner.*HF_TOKEN"),
        (403, "/commit/", ConfigError, r"may not write there \(403: "),
        (403, "/lfs/", ConfigError, r"may not write there \(403: "),
        (404, "", ConfigError, r"cannot find it \(404: .*HF_ENDPOINT"),
        (409, "/commit/", RunStopped, r"somebody else changed it .*\(409: .*Push again"),
        (429, "", RunStopped, r"cannot take it now \(429: .*later"),
        (500, "", RunStopped, r"cannot take it now \(500: .*later"),
        (413, "/commit/", ConfigError, r"does not take it \(413: "),
        ("drop", "", RunStopped, r"cannot be reached \(.*network"),
        ("drop", "/commit/", RunStopped, r"cannot be reached \(.*network"),
    ],
)
def test_a_refusal_says_what_was_found_and_what_to_do(
    hub: FakeHub, folder: Path, status: int | Literal["drop"], on: str, kind: type[RelabelError], said: str
) -> None:
    hub.fail(status, on=on)
    with pytest.raises(kind, match=said) as caught:
        push(HERE, {"": folder}, "Clean", say=lambda _: None)
    assert str(caught.value).startswith("hf://datasets/me/cleaned: ")
    assert "\n" not in str(caught.value)
    assert hub.commits == []
    push(HERE, {"": folder}, "Clean", say=lambda _: None)
    assert hub.files["me/cleaned"]["main"] == contents(folder)


def test_a_passing_failure_amid_the_upload_is_tried_again(hub: FakeHub, folder: Path) -> None:
    hub.fail(500, on="/preupload/")
    push(HERE, {"": folder}, "Clean", say=lambda _: None)
    assert hub.files["me/cleaned"]["main"] == contents(folder)


def test_a_hub_without_xet_says_how_to_do_without(hub: FakeHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hf_xet")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    hub.add("me/cleaned")
    with pytest.raises(ConfigError, match=r"no Xet storage .*HF_HUB_DISABLE_XET=1"):
        push(HERE, {"": folder}, "Clean")
    hub.fail(403, on="xet-write-token")
    with pytest.raises(ConfigError, match=r"may not write there \(403: "):
        push(HERE, {"": folder}, "Clean")


def test_no_hub_at_the_endpoint_is_said(hub: FakeHub, text: Path) -> None:
    hub.die()
    with pytest.raises(RunStopped, match=r"cannot be reached .*HF_ENDPOINT"):
        push(HERE, {"a.txt": text}, "Clean")


def test_no_token_asks_for_one_before_any_request(hub: FakeHub, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ConfigError, match=r"no token .*`hf auth login`.*HF_TOKEN"):
        push(HERE, {"a.txt": text}, "Clean")
    assert hub.requests == []


@pytest.mark.parametrize("token", ["hf_Wrong", "hf_two words", "hf_\u00fc", "hf_\x00x"])
def test_a_token_is_never_shown(hub: FakeHub, text: Path, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    if "\x00" in token:
        monkeypatch.delenv("HF_TOKEN")
        Path(constants.HF_TOKEN_PATH).write_text(token, encoding="utf-8")
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ConfigError, match="token") as caught:
        push(HERE, {"a.txt": text}, "Clean")
    assert token[3:] not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_token_that_the_hub_repeats_is_not_shown(hub: FakeHub, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relabel.testing.hub._SAID", {403: f"the token {TOKEN} may only read"})
    hub.fail(403)
    with pytest.raises(ConfigError, match=r"the token \*\*\* may only read") as caught:
        push(HERE, {"a.txt": text}, "Clean")
    assert TOKEN not in str(caught.value)


def test_being_offline_on_purpose_is_said(hub: FakeHub, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"HF_HUB_OFFLINE is set.*Unset it"):
        push(HERE, {"a.txt": text}, "Clean")


@pytest.mark.parametrize("endpoint", ["huggingface.co", "ftp://hub"])
def test_an_endpoint_that_is_no_url_is_said(
    hub: FakeHub, text: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(ConfigError, match=f"HF_ENDPOINT is '{endpoint}'"):
        push(HERE, {"a.txt": text}, "Clean")


def test_metadata_that_the_hub_cannot_read_is_said(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "card").write_text("---\na: [\n---\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"Invalid metadata in README\.md"):
        push(HERE, {"README.md": tmp_path / "card"}, "Clean", say=lambda _: None)
    assert hub.commits == []


def test_what_cannot_be_pushed_is_said_before_any_request(hub: FakeHub, tmp_path: Path, text: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "a.txt").touch()
    for files, said in (
        ({}, "no file to push"),
        ({"": tmp_path / "none"}, "no file to push"),
        ({"a.txt": tmp_path / "missing"}, "no such file or folder"),
        ({"../a.txt": text}, "leads out of"),
        ({"/a.txt": text}, "leads out of"),
        ({"a.txt": text, "": tmp_path / "some"}, r"would both become a\.txt"),
    ):
        with pytest.raises(ConfigError, match=said):
            push(HERE, files, "Clean")
    assert hub.requests == []


# how a place is written


@pytest.mark.parametrize(
    ("to", "place"),
    [
        ("hf://me/cleaned", Place("me/cleaned")),
        ("hf://datasets/me/cleaned", Place("me/cleaned")),
        ("hf://datasets/me/cleaned/", Place("me/cleaned")),
        ("hf://me/cleaned@v2", Place("me/cleaned", "v2")),
        ("hf://me/cleaned/runs/3 and ä", Place("me/cleaned", None, "runs/3 and ä")),
        ("hf://datasets/me/cleaned@v2.1/train/", Place("me/cleaned", "v2.1", "train")),
        ("hf://me/cleaned@tries%2F7/train", Place("me/cleaned", "tries/7", "train")),
        ("hf://me/cleaned@refs/pr/3/train", Place("me/cleaned", "refs/pr/3", "train")),
        ("hf://my-team/Clean_ed.v1/a@b", Place("my-team/Clean_ed.v1", None, "a@b")),
    ],
)
def test_a_place_is_read_and_written_back(to: str, place: Place) -> None:
    assert place_of(to) == place
    assert place_of(str(place)) == place


@pytest.mark.parametrize(
    ("to", "found"),
    [
        ("out/cleaned", "does not begin with hf://"),
        ("https://huggingface.co/datasets/me/cleaned", "does not begin with hf://"),
        ("hf://", "missing"),
        ("hf://cleaned", "missing"),
        ("hf://datasets/cleaned", "missing"),
        ("hf://datasets//cleaned", "missing"),
        ("hf://me/", "missing"),
        ("hf://me//folder", "Repo id"),
        ("hf://models/me/cleaned", "models"),
        ("hf://spaces/me/cleaned", "spaces"),
        ("hf://me/cle aned", "Repo id"),
        ("hf://me/größe", "Repo id"),
        ("hf://me/cle--aned", "--"),
        ("hf://me/cleaned.git", "git"),
        ("hf://me@v1/cleaned", "Repo id"),
        ("hf://me/cleaned@", "revision"),
        ("hf://me/cleaned@a b", "revision"),
        ("hf://me/cleaned@-a", "revision"),
        ("hf://me/cleaned@a..b", "revision"),
        ("hf://me/cleaned/../other", "folder"),
        ("hf://me/cleaned/a//b", "folder"),
        ("hf://me/cleaned/./b", "folder"),
        ("hf://me/cleaned/a\\b", "folder"),
        ("hf://me/cleaned/a\nb", "folder"),
    ],
)
def test_a_place_that_cannot_be_is_refused(to: str, found: str) -> None:
    with pytest.raises(ConfigError, match=found) as caught:
        place_of(to)
    assert "Expected hf://[datasets/]owner/name[@revision][/folder]" in str(caught.value)


# the fake itself


def test_the_fake_hub_lets_in_whom_it_is_told_to(hub: FakeHub) -> None:
    hub.add("me/cleaned", {"a": b""}, private=True)
    url = f"{hub.url}/api/datasets/me/cleaned"
    assert get_session().get(url).status_code == 401
    assert get_session().get(url, headers={"Authorization": f"Bearer {TOKEN}"}).json()["private"] is True
    hub.token = None
    assert get_session().get(url).status_code == 200
    assert get_session().get(f"{hub.url}/api/datasets/me/other").headers["X-Error-Code"] == "RepoNotFound"
