"""The forms of a reply: what a model must send back under each kind of prompt, and what a judge can then say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BETTER, EQUAL, WORSE, IRRELEVANT = "better", "equal", "worse", "irrelevant"
ANSWER, NO_ANSWER = "answer", "no_answer"
ABOVE, BELOW, UNPROVEN = "above", "below", "unproven"


@dataclass(frozen=True)
class Form:
    """One form of a reply.

    `labels` are ordered, the last most in the candidate's favour. `properties` are those of the JSON object that is
    asked for, each with its schema; None for a reply that is no JSON. `words` must stand in every prompt that asks for
    the form. A form with `positives` needs them shown; `settings` are the judge's settings that mean something to it.
    """

    labels: tuple[str, ...]
    words: tuple[str, ...]
    settings: frozenset[str]
    tokens: int
    """What a reply comes to, roughly, before any is known."""
    properties: Mapping[str, Any] | None = None
    positives: bool = False

    def schema(self, name: str) -> dict[str, Any] | None:
        """The `json_schema` of a request's `response_format`, by the rules of OpenAI's strict mode."""
        if self.properties is None:
            return None
        return {
            "name": name,
            "strict": True,
            "schema": {
                "type": "object",
                "properties": self.properties,
                "required": list(self.properties),
                "additionalProperties": False,
            },
        }


_CONFIDENCE = frozenset({"samples", "top_logprobs"})

FORMS: Mapping[str, Form] = {
    "rlhn": Form(
        labels=(IRRELEVANT, WORSE, BETTER),
        words=("<verdict>", "<better>", "<worse>", "Doc ("),
        settings=frozenset({"samples", "max_candidates"}),
        tokens=1000,
        positives=True,
    ),
    "answer-snippet": Form(
        labels=(NO_ANSWER, ANSWER),
        words=('"answer"', "null"),
        settings=_CONFIDENCE,
        tokens=60,
        properties={"answer": {"type": ["string", "null"]}},
    ),
    "answer-ranking": Form(
        labels=(UNPROVEN, BELOW, ABOVE),
        words=('"ranking"',),
        settings=frozenset({"orders", "show", "above", "suspect_positive", "max_candidates"}),
        tokens=60,
        properties={"ranking": {"type": "array", "items": {"type": "integer"}}},
    ),
    "graded": Form(
        labels=("0", "1", "2", "3"),
        words=('"grade"',),
        settings=_CONFIDENCE,
        tokens=10,
        properties={"grade": {"type": "integer", "enum": [0, 1, 2, 3]}},
    ),
    "versus-positive": Form(
        labels=(IRRELEVANT, WORSE, EQUAL, BETTER),
        words=('"verdict"', '"evidence"', BETTER, EQUAL, WORSE, IRRELEVANT),
        settings=_CONFIDENCE | {"suspect_positive"},
        tokens=60,
        properties={
            "verdict": {"type": "string", "enum": [BETTER, EQUAL, WORSE, IRRELEVANT]},
            "evidence": {"type": "string"},
        },
        positives=True,
    ),
}
