"""Find the prompts and presets that ship with relabel, from a checkout and from a wheel alike."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

_PACKAGE = Path(__file__).parent


def shipped(kind: Literal["prompts", "configs"]) -> Path:
    """The folder of what ships with relabel: inside the package when installed, beside it in a checkout."""
    inside = _PACKAGE / "_shipped" / kind
    return inside if inside.is_dir() else _PACKAGE.parent / kind
