"""Imports point one way, and the light parts stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import relabel

PACKAGE = Path(__file__).parents[1] / "relabel"

LAYERS = [
    {"records", "errors", "text", "resources", "arrow", "forms", "settings", "files"},
    {"config", "fence", "confidence", "tally", "meter", "signals", "calibration", "statistics"},
    {"loading"},
    {"formats", "prompts", "grounding", "parsing", "costs", "log", "tables"},
    {"labels"},
    {"judges", "policy", "schema", "segment", "ledger", "salvage"},
    {"screens", "clients"},
    {"cascade", "limits"},
    {"asker", "derived", "report", "hub"},
    {"engine"},
    {"folder"},
    {"audits"},
    {"export"},
    {"runs"},
    {"estimate", "verify", "progress", "testing", "calibrating", "differences"},
    {"printing"},
    {"cli"},
]


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("relabel."):
            found.add(node.module.split(".")[1])
    return found


def test_every_module_has_a_layer_and_imports_only_from_its_own_and_those_below() -> None:
    rank = {name: level for level, names in enumerate(LAYERS) for name in names}
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if name.startswith("__"):
            continue
        for other in imported(path):
            assert rank[other] <= rank[name], f"{name} imports {other}"


def test_importing_relabel_and_printing_help_load_nothing_heavy() -> None:
    code = (
        "import sys, relabel; from relabel.cli import app\n"
        "heavy = {'torch', 'datasets', 'ray', 'vllm', 'openai', 'pyarrow', 'aiohttp', 'pydantic', 'jinja2'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_can_be_had() -> None:
    for name in relabel.__all__:
        assert getattr(relabel, name)
