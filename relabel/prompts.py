"""Prompts are files: what they are for, their variables, their reply's form, their criteria, and their words.

A prompt is checked when it is loaded, before anything is sent: unknown keys, variables that are declared and not used
or used and not declared, texts that it does not show, a form of reply that it does not ask for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import meta
from pydantic import Field, field_validator

from relabel.config import CriteriaSettings
from relabel.errors import ConfigError
from relabel.fence import Fence
from relabel.forms import FORMS, Form
from relabel.loading import is_file, parse, read_yaml, yaml_mapping
from relabel.records import Passage
from relabel.resources import shipped
from relabel.settings import Settings

DEFAULT_KIND = "question-answering"
UNJUDGED = "unjudged"

_ENVIRONMENT = jinja2.Environment(
    undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
)


class Head(Settings):
    """What stands in a prompt file before its words."""

    name: str
    version: int
    purpose: str
    reply: str
    variables: list[str]
    criteria: dict[str, str] = Field(min_length=1)

    @field_validator("reply")
    @classmethod
    def _known_form(cls, given: str) -> str:
        if given not in FORMS:
            raise ValueError(f"found {given!r}, expected one of {', '.join(FORMS)}")
        return given


@dataclass(frozen=True)
class Prompt:
    """A loaded prompt. `hash` names its exact content: 12 hex digits of the file's sha256."""

    head: Head
    hash: str
    _system: jinja2.Template
    _user: jinja2.Template
    _fence: Fence
    _rendered: dict[str, str] = field(default_factory=dict)

    @cached_property
    def label(self) -> str:
        """How ledgers and reports name it: name, version and content."""
        return f"{self.head.name}@{self.head.version}#{self.hash}"

    @property
    def form(self) -> Form:
        """The form of the reply that it asks for."""
        return FORMS[self.head.reply]

    @cached_property
    def schema(self) -> dict[str, Any] | None:
        """The JSON schema to send along, under the prompt's own name; None where the reply is no JSON."""
        return self.form.schema(re.sub(r"[^A-Za-z0-9]+", "_", self.head.name)[:64])

    def messages(
        self, kind: str, query: str, positives: Sequence[Passage], candidates: Sequence[Passage]
    ) -> tuple[dict[str, str], ...]:
        """The prompt for one query, its passages numbered from 1 on each side and every text fenced.

        Instructions come first, then the query and what it shows of the positives, then the candidates, so that
        servers need read only once what the calls of a query have in common.
        """
        system = self._rendered.get(kind)
        if system is None:
            criteria = self.head.criteria.get(kind, kind).strip()
            system = self._rendered[kind] = self._render(self._system, criteria=criteria)
        user = self._render(
            self._user,
            query=self._fence(query),
            positives=self._shown(positives),
            candidates=self._shown(candidates),
        )
        return ({"role": "system", "content": system}, {"role": "user", "content": user})

    def _render(self, template: jinja2.Template, **given: Any) -> str:
        try:
            return template.render(given)
        except Exception as fault:  # a template can compute, and so fail in any way
            raise ConfigError(f"{self.head.name}: the prompt cannot be rendered: {fault}") from None

    def bytes_of(self, text: str) -> int:
        """How much of a prompt a text takes up, fenced."""
        return len(self._fence(text).encode())

    def _shown(self, passages: Sequence[Passage]) -> list[tuple[int, str, str]]:
        """(number, title, text) of each passage as the prompt shows it, fenced."""
        fence = self._fence
        return [(number, fence(p.title), fence(p.text)) for number, p in enumerate(passages, 1)]


def load_prompt(name: str) -> Prompt:
    """A shipped prompt by its name, or any prompt by its path. Raises ConfigError."""
    path = Path(name) if name.endswith(".md") else shipped("prompts") / f"{name}.md"
    if not is_file(path):
        known = ", ".join(sorted(p.stem for p in shipped("prompts").glob("*.md")))
        raise ConfigError(f"prompt {name!r} not found; expected one of {known}, or the path of a .md file")
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        raise ConfigError(f"{path}: {fault}") from None
    parts = re.fullmatch(r"---\n(.*?\n)---\n## system\n(.*)\n## user\n(.*)", content, re.DOTALL)
    if parts is None:
        raise ConfigError(f"{path}: expected a YAML head between two '---' lines, then '## system' and '## user'")
    head = parse(Head, yaml_mapping(parts[1], str(path)), str(path))
    _check_variables(path, head, parts[2], parts[3])
    digest = sha256(content.encode()).hexdigest()[:12]
    system, user = (_ENVIRONMENT.from_string(words.strip()) for words in (parts[2], parts[3]))
    prompt = Prompt(head, digest, system, user, Fence(parts[2] + parts[3]))
    _check_words(path, prompt)
    return prompt


def _check_words(path: Path, prompt: Prompt) -> None:
    """Render the prompt once, and refuse one that does not show what it is given or ask for what is parsed."""
    lists = "max_candidates" in prompt.form.settings
    positives = [Passage("p", "", "~the positive~")] if prompt.form.positives else []
    candidates = [Passage("n", "", f"~candidate {name}~") for name in (("one", "two") if lists else ("one",))]
    kind = next(iter(prompt.head.criteria))
    said = "\n".join(m["content"] for m in prompt.messages(kind, "~the query~", positives, candidates))
    for text in ("~the query~", *(passage.text for passage in (*positives, *candidates))):
        if text not in said:
            raise ConfigError(f"{path}: the prompt does not show the text of {text.strip('~')}")
    for number, candidate in enumerate(candidates, 1):
        if re.findall(r"\d+", said[: said.index(candidate.text)])[-1:] != [str(number)]:
            raise ConfigError(f"{path}: the last number before candidate {number}'s text is not {number}")
    if missing := [words for words in prompt.form.words if words not in said]:
        raise ConfigError(f"{path}: a reply of form {prompt.head.reply!r} must be asked for; not found: {missing[0]}")


def _check_variables(path: Path, head: Head, system: str, user: str) -> None:
    """The system part is the same for all queries of a kind; the user part is given what the form's judge shows."""
    shown = {"query", "candidates"} | ({"positives"} if FORMS[head.reply].positives else set())
    used: set[str] = set()
    for part, words, given in (("system", system, {"criteria"}), ("user", user, shown)):
        try:
            found = meta.find_undeclared_variables(_ENVIRONMENT.parse(words))
        except jinja2.TemplateSyntaxError as fault:
            raise ConfigError(f"{path}: ## {part}, line {fault.lineno}: {fault.message}") from None
        if unknown := found - given:
            names = ", ".join(sorted(given))
            raise ConfigError(f"{path}: ## {part} uses {', '.join(sorted(unknown))}; it is given {names}")
        used |= found
    declared = set(head.variables)
    if used != declared:
        names = ", ".join(sorted(used ^ declared))
        raise ConfigError(f"{path}: 'variables' and what the words use differ in: {names}")


@cache
def _shipped_subsets() -> Mapping[str, str]:
    return read_yaml(shipped("prompts") / "subsets.yaml")


class Criteria:
    """Chooses the criteria for a subset: the config's word first, then what is known of it by name."""

    def __init__(self, settings: CriteriaSettings) -> None:
        self._subsets = {_plain(name): kind for name, kind in settings.subsets.items()}
        self._unjudged = {*settings.unjudged, UNJUDGED}

    def kind(self, subset: str) -> str | None:
        """The kind of criteria for a subset, or a text that serves as such; None where it is left unjudged."""
        name = _plain(subset)
        kind = self._subsets.get(name) or _shipped_subsets().get(name, DEFAULT_KIND)
        return None if kind in self._unjudged else kind

    def check(self, prompt: Prompt) -> None:
        """Refuse a kind that the prompt has no criteria for; a text of several words is criteria itself."""
        known = [*prompt.head.criteria, UNJUDGED]
        if unknown := [kind for kind in self._unjudged if kind not in known]:
            raise ConfigError(f"criteria.unjudged: found {unknown[0]!r}, expected some of {', '.join(known)}")
        for kind in self._subsets.values():
            if kind not in known and re.fullmatch(r"[\w-]*", kind.strip(), re.ASCII):
                raise ConfigError(
                    f"criteria.subsets: found {kind!r}, expected one of {', '.join(known)}, or criteria in your words"
                )


def _plain(subset: str) -> str:
    return subset.strip().lower().replace("-", "_").replace(" ", "_")
