"""pyarrow stays light, and pandas is there for who asks for it."""

from __future__ import annotations

import subprocess
import sys


def printed(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_a_run_does_not_import_pandas_and_a_later_to_pandas_still_works() -> None:
    code = (
        "import sys, tempfile, relabel\n"
        "relabel.run('quickstart', output=tempfile.mkdtemp())\n"
        "print('pandas' in sys.modules)\n"
        "import pyarrow as pa\n"
        "print(pa.table({'a': [1, None]}).to_pandas().shape, pa.array(__import__('pandas').Series([1, 2])).to_pylist())"
    )
    assert printed(code).splitlines()[-2:] == ["False", "(2, 1) [1, 2]"]
