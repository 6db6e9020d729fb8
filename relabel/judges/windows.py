"""A passage that is too long for a prompt, in overlapping windows. Nothing of it is left out."""

from __future__ import annotations

from collections.abc import Callable

_OVERLAP = 4
"""Neighbouring windows share one part in so many, so that what one cuts through stands whole in the other."""


def split(text: str, room: int, measure: Callable[[str], int]) -> list[tuple[int, str]]:
    """A long text in overlapping windows of at most `room` by `measure`, each with its 0-based offset in the text.

    They end between words where they can, and together hold every letter.
    """
    windows = []
    start = 0
    while True:
        end = min(len(text), start + room)
        while (taken := measure(text[start:end])) > room and end - start > 1:
            end = start + max(1, (end - start) * room // taken - 1)
        if end < len(text):
            space = text.rfind(" ", start + (end - start) * (_OVERLAP - 1) // _OVERLAP, end)
            end = space if space > start else end
        windows.append((start, text[start:end]))
        if end == len(text):
            return windows
        back = max(start + 1, end - (end - start) // _OVERLAP)
        space = text.find(" ", back, end)
        start = space + 1 if start < space + 1 < end else back
