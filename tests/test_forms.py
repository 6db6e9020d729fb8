"""The forms of replies are what OpenAI's strict mode and scripts outside this project expect."""

from __future__ import annotations

import pytest

from relabel.config import LLMJudgeSettings
from relabel.forms import FORMS
from relabel.prompts import load_prompt


@pytest.mark.parametrize(
    ("name", "properties"),
    [
        ("answer-snippet", {"answer": {"type": ["string", "null"]}}),
        ("answer-ranking", {"ranking": {"type": "array", "items": {"type": "integer"}}}),
        ("graded", {"grade": {"type": "integer", "enum": [0, 1, 2, 3]}}),
        (
            "versus-positive",
            {
                "verdict": {"type": "string", "enum": ["better", "equal", "worse", "irrelevant"]},
                "evidence": {"type": "string"},
            },
        ),
    ],
)
def test_a_json_prompt_asks_for_its_form_under_its_own_name(name: str, properties: object) -> None:
    assert load_prompt(name).schema == {
        "name": name.replace("-", "_"),
        "strict": True,
        "schema": {
            "type": "object",
            "properties": properties,
            "required": list(FORMS[name].properties or ()),
            "additionalProperties": False,
        },
    }


def test_a_prompt_that_asks_for_xml_sends_no_schema() -> None:
    assert load_prompt("rlhn").schema is None


@pytest.mark.parametrize("name", FORMS)
def test_what_a_form_gives_a_meaning_to_are_settings_of_a_judge(name: str) -> None:
    assert FORMS[name].settings <= LLMJudgeSettings.model_fields.keys()
    assert load_prompt(name).form is FORMS[name]
