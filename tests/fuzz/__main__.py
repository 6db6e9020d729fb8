"""`python -m tests.fuzz [NAME] [--seconds N]`: the property tests of this folder, guided by what code they reach.

Runs those whose name holds NAME, one after the other, N seconds each. What fails is kept in hypothesis's database, so
that pytest repeats it. Needs atheris, which is no dependency: `pip install atheris` (Linux).
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import tests.fuzz

try:
    atheris: Any = importlib.import_module("atheris")
except ImportError:
    sys.exit(
        "python -m tests.fuzz needs atheris: pip install atheris. Without it, pytest tests/fuzz runs the same tests."
    )


def property_tests() -> dict[str, Callable[[bytes], Any]]:
    """What to call with bytes, by the names of the tests."""
    modules = [
        importlib.import_module(f"tests.fuzz.{found.name}")
        for found in pkgutil.iter_modules(tests.fuzz.__path__)
        if found.name.startswith("test_")
    ]
    members = {name.removeprefix("test_"): test for module in modules for name, test in vars(module).items()}
    return {name: test.hypothesis.fuzz_one_input for name, test in members.items() if hasattr(test, "hypothesis")}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Property tests, guided by coverage.")
    parser.add_argument("name", nargs="?", default="", help="part of a test's name; all, if not given")
    parser.add_argument("--seconds", type=int, default=60, help="for each test (60)")
    given = parser.parse_args()
    with atheris.instrument_imports(include=["relabel"]):
        found = property_tests()
    names = [name for name in found if given.name in name]
    if names == [given.name]:
        limits = [f"-max_total_time={given.seconds}", "-timeout=60", "-len_control=0"]
        atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={tempfile.gettempdir()}/"], found[given.name])
        atheris.Fuzz()
    if not names:
        parser.error(f"no test's name holds {given.name!r}; there are {', '.join(found)}")
    command = [sys.executable, "-m", "tests.fuzz", "--seconds", str(given.seconds)]
    failed = [name for name in names if subprocess.run([*command, name], check=False).returncode]
    print(f"{len(names)} tests, failed: {', '.join(failed) or 'none'}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
