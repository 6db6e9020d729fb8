"""Judges that ask a model: a prompt, a model's settings and a parser, one judge for each shape of question.

A judge asks by yielding calls (records.Asking) and never learns where replies come from.
"""

from __future__ import annotations

from relabel.config import LLMJudgeSettings
from relabel.judges.base import EMPTY_TEXT, SUSPECT_POSITIVE, Found, Judge, LLMJudge, Retry, has_text
from relabel.judges.listwise import ListwiseJudge
from relabel.judges.pointwise import PointwiseJudge
from relabel.judges.ranking import RankingJudge
from relabel.prompts import Prompt

__all__ = ["EMPTY_TEXT", "SUSPECT_POSITIVE", "Found", "Judge", "Retry", "has_text", "make_judge"]

_JUDGES: dict[str, type[LLMJudge]] = {"rlhn": ListwiseJudge, "answer-ranking": RankingJudge}


def make_judge(tier: str, settings: LLMJudgeSettings, prompt: Prompt, retry: Retry = frozenset()) -> LLMJudge:
    """The judge for the form of reply that the prompt asks for."""
    return _JUDGES.get(prompt.head.reply, PointwiseJudge)(tier, settings, prompt, retry)
