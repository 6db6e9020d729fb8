"""Making text safe to print, and to give to others."""

from __future__ import annotations

import re
import shlex
import unicodedata
from pathlib import Path


def without_credentials(url: str) -> str:
    """A URL with `***` in the place of a user and password."""
    return re.sub(r"(?<=://)[^/?#]*@", "***@", url)


def pasteable(*words: object) -> str:
    """Words as a shell reads them, in one line; None and nothing are left out."""
    return shlex.join([str(word) for word in words if word not in (None, "")])


def printable(text: str) -> str:
    """The text with control and direction-changing characters shown as escapes; newlines stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c if c == "\n" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") else f"\\u{ord(c):04x}"
        for c in text
    )


def well_formed(text: str) -> str:
    """The text with halves of surrogate pairs, which JSON lets pass and UTF-8 cannot hold, replaced."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def public_name(model: str) -> str:
    """A model's name; of one that lies in a folder here, that folder's name alone."""
    local = model.startswith(("/", "./", "../", "~")) or Path(model).exists()
    return Path(model).name if local else model
