"""README.md beside the cleaned set: the dataset card of the Hugging Face hub, with what the cleaning was."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from relabel.config import Config
from relabel.report.pages import markdown
from relabel.text import public_name

MARK = "<!-- Written by relabel"
"""What every card holds: a README.md without it is somebody's own."""

_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B")
_ONE_ROW = ("tevatron", "flagembedding", "sentence-transformers:labeled-list", "sentence-transformers:n-tuple")
"""Formats with a row for each instance, more or less: of others the number of rows is not known."""


def card(report: Mapping[str, Any], config: Config, cleaned: Path, *, alone: bool = False) -> str:
    """The card of a cleaned set: metadata as YAML, which `output.card` adds to and overrules, then what was done.

    `alone` says that nothing but the set lies beside it.
    """
    recipe = recipe_of(config)
    text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=100)
    return markdown(
        "card.md",
        report=report,
        metadata=metadata(report, config, cleaned),
        cleaned=cleaned.name,
        alone=alone,
        format=format_of(report, config),
        licensed=bool(config.output.card.license),
        recipe=text,
        fence="`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))]),
        title=title_of(report, config),
        mark=f"{MARK}; written anew with every report. -->",
    )


def recipe_of(config: Config) -> dict[str, Any]:
    """The settings that made the set, as in a config, without what only this machine knows: of files the names alone,
    and none of what servers are told beside (`extra_body`).
    """
    chosen = config.model_dump(mode="json", include={"cascade", "criteria", "policy"}, exclude_defaults=True)
    for tier in chosen["cascade"]:
        tier["judge"].pop("extra_body", None)
        tier["judge"].pop("cache", None)
        for name in ("prompt", "calibration"):
            if name in tier["judge"]:
                tier["judge"][name] = Path(tier["judge"][name]).name
        if "model" in tier["judge"]:
            tier["judge"]["model"] = public_name(tier["judge"]["model"])
    return chosen


def title_of(report: Mapping[str, Any], config: Config) -> str:
    """What the card calls the set: `pretty_name`, or the source's name."""
    return config.output.card.pretty_name or f"{Path(report['source']['path']).name}, cleaned"


def format_of(report: Mapping[str, Any], config: Config) -> str:
    """The format of the cleaned set."""
    source: str = report["source"]["format"]
    return source if config.output.format == "same" else config.output.format


def metadata(report: Mapping[str, Any], config: Config, cleaned: Path) -> str:
    """The card's head, as YAML."""
    from huggingface_hub import DatasetCardData

    path = config.input.path.removeprefix("hf://")
    from_the_hub = config.input.path.startswith("hf://") or not Path(path).exists()
    sized = format_of(report, config) in _ONE_ROW
    known: dict[str, Any] = {
        "annotations_creators": ["machine-generated"],
        "task_categories": ["text-retrieval", "text-ranking"],
        "tags": ["relabel", "hard-negatives", "false-negatives"],
        "size_categories": [size_of(report["instances"]["cleaned"])] if sized else None,
        "source_datasets": [path] if from_the_hub else None,
        "configs": _configs(cleaned),
        **config.output.card.model_dump(mode="json", exclude_none=True),
        "pretty_name": title_of(report, config),
    }
    data = DatasetCardData(**{name: value for name, value in known.items() if value is not None})
    return str(data.to_yaml(line_break="\n"))


def size_of(instances: int) -> str:
    """The hub's category for so many records."""
    return _SIZES[min(max(len(str(instances)) - 3, 0), len(_SIZES) - 1)]


def _configs(cleaned: Path) -> list[dict[str, Any]] | None:
    """Which file the hub's viewer and `load_dataset` take: the cleaned set, and none of those beside it."""
    if cleaned.suffix == ".beir":
        return None
    pattern = f"{cleaned.name}/*.arrow" if cleaned.suffix == ".hf" else cleaned.name
    return [{"config_name": "default", "data_files": [{"split": "train", "path": pattern}]}]
