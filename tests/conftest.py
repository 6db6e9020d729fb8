"""What several test modules share: small instances, small configs, and the real data where it is there."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings as hypothesis_settings

from relabel.config import Config
from relabel.records import Case, Instance, Passage, Verdicts

if TYPE_CHECKING:
    from relabel.testing import FakeHub

hypothesis_settings.register_profile("relabel", deadline=None)  # other work on the machine is no fault
hypothesis_settings.load_profile("relabel")

HUB_TOKEN = "hf_NobodyMaySeeThis"
SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def fiqa() -> Path:
    """25 real instances with the replies that the authors of RLHN recorded for them."""
    folder = SHARED / "rlhn-fiqa"
    if not folder.is_dir():
        pytest.skip("the recorded replies of RLHN are not beside this checkout")
    return folder


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "AZURE_OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MB, and its own."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root may mount a file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """A hub on loopback, which the library of the real one is told to take for that."""
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session  # type: ignore[attr-defined]

    from relabel.testing import FakeHub

    with FakeHub(token=HUB_TOKEN) as hub:
        for name, value in hub.environment.items():
            monkeypatch.setenv(name, value)
        for name in ("HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "login"))
        monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(tmp_path / "logins"))
        yield hub
        close_session()


def passage(docid: str, text: str = "", title: str = "") -> Passage:
    return Passage(docid, title, text or f"the text of {docid}")


def instance(negatives: int | list[Passage] = 3, query: str = "what is it?", subset: str = "nq") -> Instance:
    """An instance with one positive `p1` and candidates `n1`, `n2` …"""
    candidates = negatives if isinstance(negatives, list) else [passage(f"n{n}") for n in range(1, negatives + 1)]
    return Instance(1, "q1", query, (passage("p1"),), tuple(candidates), subset)


def case(of: Instance, candidates: Sequence[Verdicts] = (), positives: Sequence[Verdicts] = ()) -> Case:
    """An instance with what was said of its candidates and positives so far: nothing, if not given."""
    said = [
        list(verdicts) or [()] * len(side) for verdicts, side in ((candidates, of.negatives), (positives, of.positives))
    ]
    return Case(of, "question-answering", *said)


def tevatron(number: int, negatives: int = 3, **extra: Any) -> dict[str, Any]:
    """A record in the Tevatron layout."""
    return {
        "query_id": f"q{number}",
        "query": f"what is the number {number}?",
        "positive_passages": [{"docid": f"q{number}-p1", "title": "", "text": f"It is the number {number}."}],
        "negative_passages": [
            {"docid": f"q{number}-n{n}", "title": "", "text": f"Candidate {n} of query {number}."}
            for n in range(1, negatives + 1)
        ],
        **extra,
    }


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Writes records as JSON Lines and returns the path."""

    def write(records: list[Any], name: str = "train.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        return path

    return write


def settings(path: Path | str, base_url: str = "http://127.0.0.1:9/v1", **changes: Any) -> dict[str, Any]:
    """A two-tier config as it would stand in YAML."""
    judge = {"prompt": "rlhn", "client": "local"}
    return {
        "input": {"path": str(path)},
        "clients": {"local": {"kind": "openai", "base_url": base_url, "max_attempts": 2}},
        "cascade": [
            {
                "name": "cheap",
                "judge": {**judge, "model": "small"},
                "escalate": {"labels": ["better", "worse", "abstained"], "scope": "instance"},
            },
            {"name": "strong", "judge": {**judge, "model": "large"}},
        ],
        "policy": {"relabel": ["better", "worse"], "max_false_negatives": 8},
        **changes,
    }


def config(path: Path | str, base_url: str = "http://127.0.0.1:9/v1", **changes: Any) -> Config:
    return Config.model_validate(settings(path, base_url, **changes))
