"""Whatever a config, an override or a prompt file says, it is a sound one or a ConfigError."""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from relabel.config import Config
from relabel.errors import ConfigError
from relabel.loading import load_config, yaml_mapping
from relabel.prompts import load_prompt
from relabel.resources import shipped
from relabel.text import printable
from tests.conftest import settings
from tests.fuzz.mutations import ODD, mutated, places, quick, spoilt

TOKENS = st.sampled_from(
    [
        *(
            "input",
            "cascade",
            "judge",
            "<<",
            "=",
            "~",
            "null",
            "yes",
            "path",
            "run",
            "label",
            "1",
            "-1",
            "0x",
            "0b_",
            "1:1",
        ),
        *(
            ": ",
            ":\n  ",
            "- ",
            "? ",
            ", ",
            "{",
            "}",
            "[",
            "]",
            "\n",
            "\n  ",
            " ",
            "#",
            "|",
            ">-\n",
            "---\n",
            "...",
            "%YAML 1.1\n",
        ),
        *(
            "&a ",
            "*a",
            "!!int ",
            "!!set ",
            "!!omap ",
            "!!pairs ",
            "!!binary ",
            "!!timestamp ",
            "!!bool ",
            "!!float ",
            "!x ",
        ),
        *(
            "2024-02-30",
            "2024-01-01 00:00:00 +99:99",
            "9" * 5000,
            "1e999",
            ".inf",
            '"\\0"',
            '"\\ud800"',
            "'",
            '"',
            "\t",
            "\ud800",
        ),
    ]
)
YAML = st.lists(TOKENS | st.text(max_size=3), max_size=20).map("".join)
VALUES = ODD | st.sampled_from(
    [datetime.date(2024, 2, 29), datetime.datetime(2024, 2, 29, 1, 2, 3, 4), {1, "a"}, b"\xff", {1: 2, None: {3.5: []}}]  # noqa: DTZ001
)
PRESETS = [*(yaml.safe_load(path.read_text("utf-8")) for path in sorted(shipped("configs").glob("*.yaml")))]
WHOLE = Config.model_validate(settings("train.jsonl")).model_dump(mode="json")
SOUND = [*PRESETS, WHOLE, {**WHOLE, "run": {"versions": {}}, "output": {"dir": "out"}}]
PLACES = [".".join(map(str, path)) for given in SOUND for path in places(given)]


@contextmanager
def refused_in_words() -> Iterator[None]:
    """A ConfigError is fine, if it can be printed."""
    try:
        yield
    except ConfigError as fault:
        words = printable(str(fault)).encode()
        assert words


def fits(load: Callable[[], Config]) -> None:
    """The config can be recorded and read again, or is refused."""
    with refused_in_words():
        config = load()
        assert Config.model_validate(orjson.loads(orjson.dumps(config.model_dump(mode="json")))) == config


def loaded(content: bytes, *overrides: str) -> Config:
    with tempfile.TemporaryDirectory(prefix="relabel-fuzz-") as at:
        (Path(at) / "config.yaml").write_bytes(content)
        return load_config(Path(at) / "config.yaml", overrides)


@quick
@given(st.binary() | YAML.map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_no_yaml_makes_it_raise_anything_but_a_config_error(content: bytes) -> None:
    fits(lambda: loaded(content))


@quick
@given(st.sampled_from(SOUND).flatmap(lambda sound: mutated(sound, VALUES, 3)))
def test_a_config_that_is_nearly_right_is_sound_or_refused(given: Any) -> None:
    try:
        content = yaml.dump(given, allow_unicode=True)
    except (yaml.YAMLError, UnicodeError, RecursionError):
        return
    fits(lambda: loaded(content.encode("utf-8", "surrogatepass")))


@quick
@given(st.lists(st.builds("{}={}".format, st.sampled_from(PLACES) | YAML, YAML) | st.text(), min_size=1, max_size=3))
def test_no_override_makes_it_raise_anything_but_a_config_error(overrides: list[str]) -> None:
    fits(lambda: load_config("rlhn", overrides))


@quick
@given(st.text() | YAML)
def test_no_name_makes_it_raise_anything_but_a_config_error(name: str) -> None:
    fits(lambda: load_config(name))


PROMPTS = [path.read_bytes() for path in sorted(shipped("prompts").glob("*.md"))]
TAGS = [b"{{", b"}}", b"{%", b"%}", b"{% endfor %}", b"{{ 1 // 0 }}", b"{{ query[9] }}", b"{% include 'x' %}", b"---\n"]


@quick
@given(st.sampled_from(PROMPTS).flatmap(lambda whole: spoilt(whole, TAGS)) | st.binary())
def test_a_prompt_that_is_nearly_right_can_be_shown_or_is_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="relabel-fuzz-") as at:
        (Path(at) / "mine.md").write_bytes(content)
        with refused_in_words():
            prompt = load_prompt(str(Path(at) / "mine.md"))
            assert prompt.messages(next(iter(prompt.head.criteria)), "q", [], [])


@pytest.mark.parametrize("word", ["{{ 1 // 0 }}", "{{ query[3] }}"])
def test_a_prompt_that_computes_what_cannot_be_is_refused(tmp_path: Path, word: str) -> None:
    words = (shipped("prompts") / "graded.md").read_text("utf-8").replace("{{ query }}", "{{ query }}" + word)
    (tmp_path / "mine.md").write_text(words, "utf-8")
    with pytest.raises(ConfigError, match="graded: the prompt cannot be rendered: "):
        load_prompt(str(tmp_path / "mine.md")).messages("question-answering", "why", [], [])


@quick
@given(YAML)
def test_yaml_is_read_as_others_read_it(text: str) -> None:
    try:
        found = yaml_mapping(text, "c")
    except ConfigError:
        return
    assert repr(found) == repr(yaml.safe_load(text))
