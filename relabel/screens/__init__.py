"""Judges that need no LLM: they look at the words, at scores of the mining, or ask a small model of our own machine.

A screen says what it found ("duplicate", "near-duplicate", "close") or "clear". "clear" is no proof of a true
negative; it only says that this screen found nothing. What it measured stands in the verdict, for `relabel calibrate`.
"""

from __future__ import annotations

from relabel.config import ModelScreenSettings, WordScreenSettings
from relabel.judges import Judge
from relabel.screens.models import ModelScreen
from relabel.screens.words import WordScreen

__all__ = ["make_screen"]


def make_screen(tier: str, settings: WordScreenSettings | ModelScreenSettings) -> Judge:
    """The screen for its settings, as the judge of a tier."""
    return ModelScreen(tier, settings) if isinstance(settings, ModelScreenSettings) else WordScreen(tier, settings)
