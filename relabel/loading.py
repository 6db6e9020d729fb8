"""Config files: YAML with overrides on top, read strictly. An error names the file, the key, and what would do."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from relabel.config import Config, OutputSettings
from relabel.errors import ConfigError
from relabel.resources import shipped
from relabel.settings import Settings

AnySettings = TypeVar("AnySettings", bound=Settings)

_MOST = 1_000_000
"""Values in one document."""


RECORDED = "config.yaml"
"""The config of a run, in its folder."""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a config file, or a shipped preset by its name, with `key.path=value` overrides on top.

    A relative `input.path` means the working directory, or else the config's own folder; the run folder defaults to
    `outputs/<the config's name>`. Raises ConfigError.
    """
    place = find_config(path)
    given = read_yaml(place)
    home = place.parent if given.pop("run", None) and place.name == RECORDED else None
    for override in overrides:
        _override(given, override)
    _locate(given, place.parent)
    config = parse(Config, given, str(path))
    folder = str(home) if home else config.output.dir or str(Path("outputs") / place.stem)
    output = parse(OutputSettings, {**config.output.model_dump(), "dir": folder}, str(path))
    return config.model_copy(update={"output": output})


def _locate(given: dict[str, Any], beside: Path) -> None:
    """Make the paths that a config names absolute, so that the run can be taken up again from any folder."""

    def absolute(place: Any, name: Any) -> None:
        value = place[name]
        if isinstance(value, str):
            with suppress(OSError, ValueError):  # no path at all: whoever opens it says so
                found = next((path for path in (Path(value), beside / value) if path.exists()), None)
                if found is not None:
                    place[name] = str(found.absolute())

    source, ledger, clients = given.get("input"), given.get("ledger"), given.get("clients")
    if isinstance(source, dict) and "path" in source:
        absolute(source, "path")
    if isinstance(ledger, dict) and isinstance(ledger.get("read"), list):
        for number in range(len(ledger["read"])):
            absolute(ledger["read"], number)
    for client in clients.values() if isinstance(clients, dict) else ():
        if isinstance(client, dict) and "path" in client:
            absolute(client, "path")
    for tier in given["cascade"] if isinstance(given.get("cascade"), list) else ():
        judge = tier.get("judge") if isinstance(tier, dict) else None
        if not isinstance(judge, dict):
            continue
        if str(judge.get("prompt", "")).endswith(".md"):
            absolute(judge, "prompt")
        for name in ("calibration", "model"):
            if name in judge and ("screen" in judge or name == "calibration"):
                absolute(judge, name)


def find_config(path: str | Path) -> Path:
    """A config file: as named, of a run folder, or a shipped one (`rlhn`, `configs/rlhn.yaml`) from any folder."""
    place = Path(path)
    for file in (place, place / RECORDED):
        if is_file(file):
            return file
    presets = shipped("configs")
    preset = presets / (place.name if place.suffix else f"{place.name}.yaml")
    if is_file(preset) and place.parent.name in ("", "configs"):
        return preset
    known = ", ".join(sorted(p.stem for p in presets.glob("*.yaml")))
    raise ConfigError(f"{path}: no such config; name a YAML file, a run folder or a preset ({known})")


def is_file(path: Path) -> bool:
    """Whether a file lies there: not under a name that none can have, nor where it may not be looked for."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping from a file. Raises ConfigError with the place of a mistake."""
    try:
        return yaml_mapping(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as fault:
        raise ConfigError(f"{path}: {fault}") from None


def yaml_mapping(text: str, where: str) -> dict[str, Any]:
    """A YAML mapping from a text. Raises ConfigError with the place of a mistake."""
    try:
        given = _loaded(text)
    except yaml.MarkedYAMLError as fault:
        mark = fault.problem_mark
        at = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{where}{at}: not valid YAML: {fault.problem}") from None
    except yaml.YAMLError as fault:
        raise ConfigError(f"{where}: not valid YAML: {fault}") from None
    if not isinstance(given, dict):
        raise ConfigError(f"{where}: expected a mapping with keys {', '.join(Config.model_fields)}")
    return given


def _loaded(text: str) -> Any:
    try:
        given = yaml.load(text, Loader=_StrictLoader)
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None
    if _too_much(given):
        raise yaml.YAMLError(f"more than {_MOST:,} values, with its aliases written out")
    return given


class _StrictLoader(yaml.SafeLoader):
    """No key stands twice, and what cannot be the value that it looks like (2024-02-30, `!!int x`) has its place."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, OverflowError) as fault:
            problem = f"not a valid {node.tag.rpartition(':')[2]}: {fault}"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from None

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f"key {key.value!r} stands twice"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                seen.add(key.value)
        return node


def _too_much(given: Any) -> bool:
    """Whether aliases of aliases say more than could be gone through, or have no end."""
    waiting, seen = [given], 0
    while waiting and seen + len(waiting) <= _MOST:
        value = waiting.pop()
        seen += 1
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return bool(waiting)


def parse(model: type[AnySettings], given: Any, where: str) -> AnySettings:
    """Validate; raises ConfigError that names each faulty key."""
    try:
        return model.model_validate(given)
    except ValidationError as fault:
        raise ConfigError(_faults(fault, where)) from None


def _override(given: dict[str, Any], override: str) -> None:
    dotted, found, text = override.partition("=")
    if not found or not dotted:
        raise ConfigError(f"--set {override}: expected key.path=value")
    try:
        value = _loaded(text) if text else None
    except yaml.YAMLError:
        value = text
    *parents, last = dotted.split(".")
    place: Any = given
    for depth, name in enumerate(parents, 1):
        place = _step(place, name, override, ".".join(parents[:depth]))
    if isinstance(place, list):
        place[_position(place, last, override)] = value
    elif isinstance(place, dict):
        place[last] = value


def _step(place: Any, name: str, override: str, so_far: str) -> Any:
    if isinstance(place, list):
        return place[_position(place, name, override)]
    below = place.setdefault(name, {}) if isinstance(place, dict) else None
    if below is None and isinstance(place, dict):
        below = place[name] = {}
    if not isinstance(below, (dict, list)):
        raise ConfigError(f"--set {override}: {so_far} is a plain value, it has no keys")
    return below


def _position(items: list[Any], name: str, override: str) -> int:
    """A place in a list: a tier by its name, or any item by its number from 0."""
    for place, item in enumerate(items):
        if isinstance(item, dict) and item.get("name") == name:
            return place
    if name in map(str, range(len(items))):
        return int(name)
    named = [(place, item.get("name")) for place, item in enumerate(items) if isinstance(item, dict)]
    names = [name if isinstance(name, str) else str(place) for place, name in named]
    raise ConfigError(f"--set {override}: found no {name!r}; expected one of {', '.join(names) or 'nothing'}")


def _without_tag(loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """A fault's place without the tag that pydantic puts in for the chosen kind of a client or a judge."""
    tag = {"clients": 2, "cascade": 3}.get(str(loc[0]) if loc else "", len(loc))
    return loc[:tag] + loc[tag + 1 :]


def _faults(fault: ValidationError, where: str) -> str:
    lines = []
    for error in fault.errors(include_url=False, include_context=False, include_input=False):
        place = ".".join(str(part) for part in _without_tag(error["loc"]))
        message = error["msg"].removeprefix("Value error, ")
        if error["type"] == "union_tag_not_found":
            message = "has no 'kind'; expected one of openai, replay"
        lines.append(f"{where}: {place + ': ' if place else ''}{message[:1].lower()}{message[1:]}")
    return "\n".join(lines)
