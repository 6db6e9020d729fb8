"""Keep pyarrow light."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any


def without_pandas() -> None:
    """Let pyarrow's first array be made without pandas, which it would import if it is installed.

    That costs half a second and 40 MB, and nothing here uses it. pyarrow looks once, finds the place of pandas empty,
    and goes on without; should pandas be asked for later (`to_pandas`), it is imported then. Where it is imported
    already, nothing is changed.
    """
    import pyarrow as pa

    modules: dict[str, Any] = sys.modules
    if "pandas" in modules:
        return
    modules["pandas"] = None
    try:
        with suppress(ImportError, AttributeError):
            pa.array([0])
    finally:
        del modules["pandas"]
