"""What goes into a calibration and what comes out of it: runs, tables and labels; calibration.json and a config."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import yaml

from relabel.calibrating.calibrate import calibrate
from relabel.calibrating.pairs import Pairs
from relabel.calibrating.pilot import from_run
from relabel.calibrating.tables import from_tables
from relabel.calibrating.target import Target
from relabel.calibration import FALSE_NEGATIVE, UNSURE, Calibration
from relabel.cascade import Cascade
from relabel.config import Config
from relabel.errors import ConfigError
from relabel.folder import recorded_config
from relabel.labels import read_labels
from relabel.loading import RECORDED

DOUBT, COMBINED, SETTLED = "doubt", "combined", "settled"
"""Names of the tiers that a calibrated config has more than its pilot."""

_CALIBRATED = ", calibrated"


class Learnt(NamedTuple):
    """A calibration, and the config beside it, if it is of a pilot run."""

    calibration: Calibration
    config: Path | None


def learn(
    sources: Sequence[str],
    labels: str,
    relevant: float,
    strong: str,
    found: Collection[str],
    target: Target,
    strong_price: float | None,
    to: Path,
) -> Learnt:
    """Calibrate on a pilot run or verdict tables and human labels, and write what comes of it. Raises RelabelError."""
    check_target(to)
    pairs = gather(sources, labels, relevant, strong, found)
    if strong_price is not None:
        pairs.usd = strong_price
    calibration = calibrate(pairs, target, relevant)
    run = Path(sources[0])
    config = calibrated(recorded_config(run)[0], calibration, to) if _is_run(run) else None
    write(calibration, to)
    return Learnt(calibration, write_config(run, calibration, config, to) if config else None)


def gather(sources: Sequence[str], labels: str, relevant: float, strong: str, found: Collection[str]) -> Pairs:
    """The labelled pairs of a pilot run, or of verdict tables. Raises RelabelError."""
    graded = read_labels(labels, relevant)
    runs = [source for source in sources if _is_run(Path(source))]
    if not runs:
        return from_tables(sources, graded, strong, found, relevant)
    if len(sources) > 1:
        raise ConfigError(f"{runs[0]}: a run stands alone; name one run, or verdict tables")
    return from_run(Path(runs[0]), graded, strong, found)


def _is_run(folder: Path) -> bool:
    return (folder / RECORDED).is_file()


def check_target(path: Path) -> None:
    """Refuse to write where something else lies. Raises ConfigError."""
    if path.suffix != ".json":
        raise ConfigError(f"--to {path}: expected a file that ends in .json")
    if _is_run(path.parent):
        raise ConfigError(f"--to {path}: lies in the folder of a run; name another place")
    ours = {path: b"relabel_calibration", path.with_suffix(".yaml"): _CALIBRATED.encode()}
    for file, mark in ours.items():
        if file.exists() and (not file.is_file() or mark not in file.read_bytes()[:500]):
            raise ConfigError(
                f"--to {path}: {file} exists, and `relabel calibrate` did not write it; name another place"
            )


def write(calibration: Calibration, path: Path) -> None:
    """Write calibration.json."""
    content = orjson.dumps(calibration.model_dump(mode="json"), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def write_config(run: Path, calibration: Calibration, config: dict[str, Any], path: Path) -> Path:
    """Write a calibrated config beside its calibration; returns where."""
    place = path.with_suffix(".yaml")
    head = (
        f"# {run.name}{_CALIBRATED}: {calibration.strong} judges only what {DOUBT} is unsure of. What that is sure to\n"
        f"# be a false negative becomes a positive. How good this is stands in {path.name}, under `measured`.\n"
        f"#\n#   relabel run {place} --set input.path=train.jsonl\n#\n"
    )
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=110)
    place.write_text(head + text, encoding="utf-8")
    return place


def calibrated(config: Config, calibration: Calibration, path: Path) -> dict[str, Any]:
    """A pilot's config with the calibration before its strong tier, and after it if the combined part is of use."""
    given = config.model_dump(mode="json", exclude_defaults=True, exclude={"output"})
    tiers: list[dict[str, Any]] = given["cascade"]
    place = [tier["name"] for tier in tiers].index(calibration.strong)
    strong, file = tiers[place], str(path.absolute())
    if taken := {DOUBT, COMBINED, SETTLED} & {tier["name"] for tier in tiers}:
        raise ConfigError(f"the pilot has a tier {sorted(taken)[0]!r} already: give it another name, and run it again")
    if place + 1 < len(tiers):
        last = tiers[-1]["name"]
        raise ConfigError(f"--strong {calibration.strong}: is not the last tier of the pilot, which is {last}")
    if calibration.combined is not None:
        strong["escalate"] = {"labels": _every_label(config, calibration.strong)}
        tiers.append({"name": COMBINED, "judge": {"calibration": file, "part": "combined"}})
    else:
        strong["escalate"] = {"labels": ["abstained"]}
        tiers.append({"name": SETTLED, "judge": {"calibration": file, "part": "alone"}})
    doubt = {"name": DOUBT, "judge": {"calibration": file}, "escalate": {"labels": [UNSURE, "abstained"]}}
    tiers.insert(place, doubt)
    given["policy"]["relabel"] = [*given["policy"].get("relabel", []), FALSE_NEGATIVE]
    return given


def _every_label(config: Config, tier: str) -> list[str]:
    (judge,) = (one.judge for one in Cascade(config).tiers if one.name == tier)
    return [*judge.labels, "abstained"]
