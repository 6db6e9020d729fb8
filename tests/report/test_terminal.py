"""What data, models and names bring in does nothing to a terminal."""

from __future__ import annotations

import json
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from tests.report import hostile
from tests.report.runs import Made


def printed(*arguments: object, cwd: Path) -> str:
    """What a command says on both streams."""
    command = [sys.executable, "-m", "relabel", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, timeout=60)
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return (done.stdout + done.stderr).decode()


def unprintable(text: str) -> set[str]:
    """Characters that a terminal would act on, or that turn round what follows."""
    return {one for one in text if one != "\n" and unicodedata.category(one) in ("Cc", "Cf", "Cs", "Zl", "Zp")}


@pytest.fixture
def labels(made: Made) -> Path:
    return made.folder("attacked").parent / "labels <script>.jsonl"


@pytest.mark.parametrize("command", ["report", "status", "run", "verify", "export", "estimate"])
def test_says_nothing_that_a_terminal_obeys(command: str, made: Made, tmp_path: Path) -> None:
    said = printed(command, made.folder("attacked"), cwd=tmp_path)
    assert "\\u001b[31m" in said
    assert unprintable(said) == set()


def test_differences_say_nothing_that_a_terminal_obeys(made: Made, labels: Path, tmp_path: Path) -> None:
    page = tmp_path / f"{hostile.NAME}.html"
    said = printed(
        *("diff", made.folder("attacked"), made.folder("milder"), "--labels", labels, "--relevant", 1, "--to", page),
        cwd=tmp_path,
    )
    assert "people      " in said
    assert "\\u001b[31m" in said
    assert unprintable(said) == set()


def test_reports_with_labels_and_exports_elsewhere_say_nothing_that_a_terminal_obeys(
    made: Made, labels: Path, tmp_path: Path
) -> None:
    folder = made.folder("attacked")
    assert unprintable(printed("report", folder, "--labels", labels, "--relevant", 1, cwd=tmp_path)) == set()
    assert unprintable(printed("export", folder, "--to", tmp_path / f"{hostile.NAME}.jsonl", cwd=tmp_path)) == set()


@pytest.mark.parametrize(
    "row",
    [
        {"query_id": hostile.NAME, "docid": hostile.NAME, "grade": hostile.NAME},
        {"query_id": hostile.NAME, hostile.NAME: 1, "grade": 1},
    ],
)
def test_faults_say_nothing_that_a_terminal_obeys(row: dict[str, object], made: Made, tmp_path: Path) -> None:
    bad = tmp_path / f"{hostile.NAME}.jsonl"
    bad.write_text(json.dumps(row) + "\n", encoding="utf-8")
    said = printed("report", made.folder("attacked"), "--labels", bad, "--relevant", 1, cwd=tmp_path)
    assert "\\u001b" in said
    assert unprintable(said) == set()
    assert unprintable(printed("report", tmp_path / hostile.NAME, cwd=tmp_path)) == set()
