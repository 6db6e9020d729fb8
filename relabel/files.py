"""Files that are written whole or not at all, and taken away."""

from __future__ import annotations

import shutil
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under another name, and put it in place once it is whole."""
    partial = partial_path(path)
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as fault:
        partial.unlink(missing_ok=True)
        raise OSError(fault.errno, fault.strerror, str(path)) from None


def partial_path(path: Path) -> Path:
    """Where a file is written before it is whole; its suffix stays, so that writers still recognise it."""
    return path.with_name(f".partial-{path.name}")


def discard(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
