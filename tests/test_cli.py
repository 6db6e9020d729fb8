"""The command as a stranger meets it: exit codes, what goes where, and no traceback ever."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from relabel.testing import ReplyServer
from tests.conftest import settings, tevatron
from tests.test_run import finds_the_first


def relabel(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "AZURE_"))}
    done = subprocess.run(
        [sys.executable, "-m", "relabel", *arguments],
        cwd=cwd,
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def written(write_jsonl: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    def write(url: str = "http://127.0.0.1:9/v1", **changes: object) -> Path:
        train = write_jsonl([tevatron(number) for number in range(1, 13)])
        path = tmp_path / "my.yaml"
        path.write_text(yaml.safe_dump(settings(train, url, **changes)), encoding="utf-8")
        return path

    return write


def test_a_run_prints_its_counts_to_stdout_and_nothing_else(written: Callable[..., Path], tmp_path: Path) -> None:
    with ReplyServer(finds_the_first) as server:
        done = relabel("run", str(written(server.url)), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "candidates  36 in = 4 relabel + 0 drop + 32 keep (0 undecided)" in done.stdout
    assert "requests    16 sent, 0 from the ledger" in done.stdout
    assert done.stderr == ""
    assert (tmp_path / "outputs" / "my" / "cleaned.jsonl").exists()
    for command in ("verify", "status", "report", "export"):
        again = relabel(command, "outputs/my", cwd=tmp_path)
        assert again.returncode == 0, again.stderr


def test_a_run_that_must_stop_exits_with_1_and_says_how_to_go_on(written: Callable[..., Path], tmp_path: Path) -> None:
    with ReplyServer(finds_the_first) as server:
        done = relabel("run", str(written(server.url, budget={"requests": 5})), cwd=tmp_path)
    assert done.returncode == 1
    assert "Stopped: budget.requests (5) is reached." in done.stderr
    assert (
        "5 new replies are safe in outputs/my, with all that was there before; running again goes on: relabel run "
        in done.stderr
    )
    assert done.stderr.endswith("my.yaml --set budget.requests=10\n")
    assert relabel("export", "outputs/my", cwd=tmp_path).returncode == 1
    assert relabel("status", "outputs/my", cwd=tmp_path).stdout.endswith("`relabel run outputs/my` goes on\n")


def test_the_folder_of_a_run_says_how_it_goes_on(written: Callable[..., Path], tmp_path: Path) -> None:
    with ReplyServer(finds_the_first) as server:
        relabel("run", str(written(server.url, budget={"requests": 5})), cwd=tmp_path)
        done = relabel("run", "outputs/my", "--set", "budget.requests=null", cwd=tmp_path)
    assert "requests    11 sent, 5 from the ledger" in done.stdout
    assert (tmp_path / "outputs" / "my" / "cleaned.jsonl").exists()


def test_a_server_that_is_not_there_stops_the_run_with_its_address(
    written: Callable[..., Path], tmp_path: Path
) -> None:
    done = relabel("run", str(written()), cwd=tmp_path)
    assert done.returncode == 1
    assert "http://127.0.0.1:9/v1/chat/completions: no server there" in done.stderr
    assert "Nothing is lost; running again goes on: relabel run " in done.stderr


def test_the_key_stands_nowhere(written: Callable[..., Path], tmp_path: Path) -> None:
    key = "sk-very-secret-1234567890"
    with ReplyServer(finds_the_first) as server:
        done = relabel("run", str(written(server.url)), cwd=tmp_path, OPENAI_API_KEY=key)
    assert done.returncode == 0
    assert key not in done.stdout + done.stderr
    for path in (tmp_path / "outputs").rglob("*"):
        assert path.is_dir() or key.encode() not in path.read_bytes()


def test_estimate_sends_nothing_and_prints_a_table(written: Callable[..., Path], tmp_path: Path) -> None:
    done = relabel("estimate", str(written()), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line.split()[:3] for line in done.stdout.splitlines()[1:3]] == [
        ["cheap", "small", "12"],
        ["strong", "large", "12"],
    ]
    assert not (tmp_path / "outputs").exists()


def test_control_characters_from_the_data_do_not_reach_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "a\x1b[31m.jsonl").touch()
    done = relabel("run", "rlhn", "--set", "input.path='a\x1b[31m.jsonl'", cwd=tmp_path)
    assert done.returncode == 2
    assert "\x1b" not in done.stderr
    assert "\\u001b[31m" in done.stderr
