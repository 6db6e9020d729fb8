"""A run's folder: the config that it records, what is derived into it, and whether that is up to date."""

from __future__ import annotations

import os
import platform
import socket
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import yaml

from relabel import __version__
from relabel.cascade import Cascade
from relabel.config import Config, InputSettings, LLMJudgeSettings, OutputSettings, PolicySettings, ScreenSettings
from relabel.derived import QUARANTINE, Derived, for_others, outcomes
from relabel.errors import ConfigError, InputError
from relabel.files import discard, partial_path, write_whole
from relabel.formats import Sink, Source, needs_negatives, open_sink, open_source
from relabel.formats.base import file_identity
from relabel.labels import Name, read_reviews
from relabel.ledger import Ledger, segments
from relabel.loading import RECORDED, find_config, load_config, parse, read_yaml, yaml_mapping
from relabel.meter import Meter
from relabel.records import Instance, Outcome, Quarantined
from relabel.report import CARD, PAGE, REPORT, SUMMARY
from relabel.report.card import MARK
from relabel.resources import shipped
from relabel.tables import DECISIONS, POSITIVES
from relabel.text import without_credentials

CONFIG, REVIEWS, PEOPLE = RECORDED, "reviews.jsonl", "people.jsonl"
_CLEANED = tuple(f"cleaned{suffix}" for suffix in (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", ".hf", ".beir"))
_DERIVED = (DECISIONS, POSITIVES, QUARANTINE)
PAGES = (PAGE, SUMMARY, CARD)
_OURS = (*_CLEANED, *_DERIVED, *PAGES, REPORT, CONFIG)


@dataclass(frozen=True)
class Opened:
    """A config with what it names, checked and ready: its source and its cascade."""

    config: Config
    folder: Path
    source: Source
    cascade: Cascade
    identity: tuple[int, str]
    named: str | None = None
    public: bool = False
    """Whether what only this machine knows is left out."""

    @property
    def cleaned(self) -> Path:
        """Where the cleaned set goes."""
        if self.named is not None:
            return self.folder / self.named
        keeps = self.converted is None or self.source.suffix in (".jsonl.gz", ".jsonl.zst", ".parquet")
        return self.folder / f"cleaned{self.source.suffix if keeps else '.jsonl'}"

    @property
    def converted(self) -> str | None:
        """The cleaned set's format, where it is another than the input's."""
        wanted = self.config.output.format
        return None if wanted in ("same", self.source.format_name) else wanted

    def outcomes(self, ledger: Ledger, meter: Meter | None = None) -> Iterator[Outcome | Quarantined]:
        """Every record in order, decided from what the ledger holds; `meter` is told of the calls."""
        return self._decided(islice(self.source, self.config.input.limit), ledger, meter or Meter())

    def outcomes_at(self, lines: Set[int], ledger: Ledger) -> Iterator[Outcome]:
        """The instances that begin at these lines, decided."""
        found = self._decided(self.source.at(lines), ledger, Meter())
        return (outcome for outcome in found if isinstance(outcome, Outcome))

    def _decided(
        self, records: Iterable[Instance | Quarantined], ledger: Ledger, meter: Meter
    ) -> Iterator[Outcome | Quarantined]:
        found = self._told(records, ledger, meter)
        return map(for_others, found) if self.public else found

    def _told(
        self, records: Iterable[Instance | Quarantined], ledger: Ledger, meter: Meter
    ) -> Iterator[Outcome | Quarantined]:
        return outcomes(
            records,
            self.cascade,
            self.config.policy,
            ledger,
            meter,
            needs_negatives=needs_negatives(self.converted) if self.converted else self.source.needs_negatives,
        )

    def sink(self, path: Path) -> Sink:
        """A place for the cleaned set, in the input's format unless another is asked for."""
        return open_sink(path, self.converted) if self.converted else self.source.sink(path)

    def derived(self) -> Derived:
        """The derived files, to be written."""
        sink = self.sink(partial_path(self.cleaned))
        return Derived(self.folder, self.cleaned, sink, positives=self.cascade.judges_positives)


def open_run(config: Config) -> Opened:
    """Check all that a config names. Raises RelabelError."""
    cascade = Cascade(config)
    given = config.input
    source = open_source(
        given.path,
        format=given.format,
        subset=given.subset,
        name=given.name,
        split=given.split,
        revision=given.revision,
        run=given.run,
    )
    opened = Opened(config, Path(config.output.dir or "outputs/run"), source, cascade, source.identity())
    if opened.converted:
        needs_negatives(opened.converted)
    return opened


class People(NamedTuple):
    """Whether people call a candidate relevant, by (query_id, docid); or why what they say cannot be read."""

    labels: dict[Name, bool]
    fault: str = ""


def people_of(opened: Opened) -> People:
    """What the labels and the reviews in a run's folder say, and those in the folders whose ledgers it reads; its own
    go before, and reviews before labels.
    """
    folders = [*map(Path, reversed(opened.config.ledger.read)), opened.folder]
    found: dict[Name, bool] = {}
    try:
        for name in (PEOPLE, REVIEWS):
            for folder in folders:
                found |= read_reviews(folder / name)
    except InputError as fault:
        return People({}, str(fault))
    return People(found)


def write_people(folder: Path, labels: Mapping[Name, bool]) -> None:
    """Keep what people say with the run, in the place of what was kept before."""
    rows = ({"query_id": query, "docid": docid, "relevant": value} for (query, docid), value in labels.items())
    write_whole(folder / PEOPLE, b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows))


def reopen(folder: str | Path, *, policy: str | None = None) -> Opened:
    """A run from its folder, with another policy if one is named. Raises RelabelError if its source has changed."""
    config, recorded = recorded_config(Path(folder))
    if policy is not None:
        config = config.model_copy(update={"policy": find_policy(policy)})
    opened = open_run(config)
    before = recorded.get("source", {}).get("sha256")
    if before != opened.identity[1]:
        raise InputError(
            f"{config.input.path}: has changed since the run (sha256 {opened.identity[1][:12]}…, the run read "
            f"{str(before)[:12]}…). Restore it, or `relabel run` again."
        )
    prompts = [prompt.label for prompt in opened.cascade.prompts.values()]
    if (then := recorded.get("prompts", prompts)) != prompts:
        raise InputError(
            f"{folder}: the prompts have changed since the run (it used {', '.join(then)}; now there are "
            f"{', '.join(prompts)}). Restore them, or `relabel run` again: that asks the changed judges anew."
        )
    calibrations = {name: judge.sha256 for name, judge in opened.cascade.calibrated.items()}
    for name, digest in recorded.get("calibrations", calibrations).items():
        if calibrations.get(name) != digest:
            raise InputError(
                f"{opened.cascade.calibrated[name].path}: has changed since the run (it used sha256 {digest[:12]}…). "
                "Restore it, or `relabel run` again: what it newly escalates is asked."
            )
    return opened


def recorded_config(folder: Path) -> tuple[Config, dict[str, Any]]:
    """A run's config, its folder where it now lies, and what its block `run` records. Raises ConfigError."""
    if not (folder / CONFIG).is_file():
        raise ConfigError(f"{folder}: not a run folder: there is no {CONFIG} in it")
    recorded = read_yaml(folder / CONFIG).get("run")
    return with_options(load_config(folder / CONFIG), None, folder), recorded if isinstance(recorded, dict) else {}


def find_policy(policy: str) -> PolicySettings:
    """A policy by its name (configs/policies, or a preset), from a YAML file, or as YAML: `{relabel: [better]}`."""
    if policy.lstrip().startswith("{"):
        return parse(PolicySettings, yaml_mapping(policy, "--policy"), "--policy")
    shelf = shipped("configs") / "policies"
    named = shelf / f"{policy}.yaml"
    try:
        given = read_yaml(named if named.is_file() else find_config(policy))
    except ConfigError as fault:
        known = ", ".join(sorted(path.stem for path in shelf.glob("*.yaml")))
        raise ConfigError(f"--policy {fault}; policies are: {known}, or YAML such as '{{relabel: [better]}}'") from None
    return parse(PolicySettings, given.get("policy", given), policy)


def ledger_of(folder: Path, config: Config) -> Ledger:
    """A run's ledger, for reading."""
    return Ledger(folder, config.ledger.read)


def with_options(config: Config, limit: int | None, output: str | Path | None) -> Config:
    """The config with what `--limit` and `--output` say."""
    changes: dict[str, Any] = {}
    if limit is not None:
        if limit < 1:
            raise ConfigError(f"--limit {limit}: expected 1 or more")
        changes["input"] = config.input.model_copy(update={"limit": limit})
    if output is not None:
        changes["output"] = parse(OutputSettings, {**config.output.model_dump(), "dir": str(output)}, "--output")
    return config.model_copy(update=changes)


def derived_files(opened: Opened) -> list[Path]:
    """The cleaned set, the decisions, the positives where they are judged, and the quarantine."""
    names = [name for name in _DERIVED if name != POSITIVES or opened.cascade.judges_positives]
    return [opened.cleaned, *(opened.folder / name for name in names)]


def is_within(path: Path, place: Path) -> bool:
    """Whether a path is a place, or lies in it."""
    return place.resolve() in (path.resolve(), *path.resolve().parents)


def guard(folder: Path, given: InputSettings) -> None:
    """Refuse to write where a source lies, or where files lie that no run wrote. Raises ConfigError."""
    ours = [folder / name for name in _OURS if (folder / name).exists()]
    for source in filter(None, (given.path, given.run)):
        if any(is_within(Path(source), path) for path in ours):
            raise ConfigError(
                f"{source}: lies among what is written to {folder}, and would be lost; use another --output"
            )
    is_run = bool(segments(folder)) or ((folder / CONFIG).is_file() and "run" in read_yaml(folder / CONFIG))
    if ours and not is_run:
        names = ", ".join(sorted(path.name for path in ours))
        raise ConfigError(f"{folder}: holds {names}, which no run wrote; name another folder, or move them away")
    guard_card(folder / CARD)


def guard_card(path: Path) -> None:
    """Refuse to write a card over a file that relabel has not written. Raises ConfigError."""
    if path.exists() and not (path.is_file() and MARK in path.read_text(encoding="utf-8", errors="replace")):
        raise ConfigError(f"{path}: was not written by relabel, and would be replaced by the card; move it away")


def discard_derived(folder: Path, *, but: Collection[Path] = ()) -> None:
    """Remove what another state of the run derived, so that nothing stale lies beside a run that does not finish."""
    for name in (*_CLEANED, *_DERIVED, *PAGES, REPORT):
        discard(partial_path(folder / name))
        if folder / name not in but:
            discard(folder / name)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.is_dir() else path.stat().st_size


def up_to_date(opened: Opened, known: dict[str, Any]) -> bool:
    """Whether all that is derived is there, complete, and derived from what the fingerprint names."""
    paths = [opened.folder / name for name in PAGES]
    pages = {path.name: size_of(path) for path in paths if path.is_file()}
    return (
        pages == known.get("pages") and known.get("fingerprint") == fingerprint_of(opened) and _complete(opened, known)
    )


def tables_up_to_date(opened: Opened, known: dict[str, Any]) -> bool:
    """Whether this holds of all but the report, which alone tells what people say."""
    before, now = ({**one, "people": ""} for one in (known.get("fingerprint", {}), fingerprint_of(opened)))
    return before == now and _complete(opened, known)


def _complete(opened: Opened, known: dict[str, Any]) -> bool:
    if any(known.get(name, {}).get("unanswered") for name in ("candidates", "positives")):
        return False
    files = {path.name: size_of(path) for path in derived_files(opened) if path.exists()}
    return bool(known.get("files") == files)


def fingerprint_of(opened: Opened, ledger: Ledger | None = None) -> dict[str, str]:
    """What the derived files are a function of; while it stays the same, so do they."""
    config = opened.config.model_dump(mode="json", exclude={"output": {"dir"}, "input": {"path"}})
    return {
        "version": __version__,
        "code": _code(),
        "source": opened.identity[1],
        "config": sha256(orjson.dumps(config, option=orjson.OPT_SORT_KEYS)).hexdigest(),
        "prompts": " ".join(sorted(prompt.label for prompt in opened.cascade.prompts.values())),
        "calibrations": " ".join(judge.sha256 for judge in opened.cascade.calibrated.values()),
        "ledger": ledger.head() if ledger else _head(opened),
        "people": _people_digest(opened),
    }


def _people_digest(opened: Opened) -> str:
    """Of all that people say; nothing if they say nothing."""
    folders = [*map(Path, opened.config.ledger.read), opened.folder]
    paths = [path for folder in folders for name in (PEOPLE, REVIEWS) if (path := folder / name).is_file()]
    return file_identity(paths)[1] if paths else ""


def _head(opened: Opened) -> str:
    if not segments(opened.folder) and not opened.config.ledger.read:
        return ""
    with Ledger(opened.folder, opened.config.ledger.read) as ledger:
        return ledger.head()


@cache
def _code() -> str:
    """A digest of relabel's own code, so that what another version derived is derived anew."""
    digest = sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def source_of(opened: Opened) -> dict[str, Any]:
    """What the run records of its source."""
    size, digest = opened.identity
    return {
        "path": opened.config.input.path,
        "format": opened.source.format_name,
        "size": size,
        "sha256": digest,
    }


def held_before(opened: Opened) -> str:
    """What else the folder's last run was over, in words: another source, or other judges; nothing if there is none."""
    if not (opened.folder / CONFIG).is_file():
        return ""
    given = read_yaml(opened.folder / CONFIG)
    source, cascade = given.get("input"), given.get("cascade")
    path = source.get("path") if isinstance(source, dict) else None
    if path and str(path) != opened.config.input.path:
        return f"over {path}"
    judges = [{"name": tier.name, **_named(tier.judge.model_dump())} for tier in opened.config.cascade]
    tiers = [tier for tier in cascade if isinstance(tier, dict)] if isinstance(cascade, list) else []
    before = [{"name": tier.get("name"), **_named(tier.get("judge"))} for tier in tiers]
    if before in ([], judges):
        return ""
    return "with " + " and ".join(" ".join(str(word) for word in one.values() if word) for one in before)


def _named(judge: Any) -> dict[str, Any]:
    given = judge if isinstance(judge, dict) else {}
    return {name: given.get(name) for name in ("prompt", "screen", "model")}


def judges_of(opened: Opened) -> list[dict[str, str | None]]:
    """For each tier its judge: the prompt or screen, and the model."""
    found: list[dict[str, str | None]] = []
    for tier in opened.config.cascade:
        if isinstance(tier.judge, LLMJudgeSettings):
            label = opened.cascade.prompts[tier.judge.prompt].label
            found.append({"tier": tier.name, "judge": label, "model": tier.judge.model})
        elif isinstance(tier.judge, ScreenSettings):
            found.append({"tier": tier.name, "judge": tier.judge.screen, "model": getattr(tier.judge, "model", None)})
        else:
            found.append({"tier": tier.name, "judge": opened.cascade.calibrated[tier.name].name, "model": None})
    return found


def write_config(opened: Opened) -> None:
    """Write the resolved config, with versions and the source's identity."""
    content = opened.config.model_dump(mode="json")
    for client in content["clients"].values():
        for name in ("base_url", "azure_endpoint"):
            given = client.get(name)
            if isinstance(given, list):
                client[name] = [without_credentials(one) for one in given]
            elif given:
                client[name] = without_credentials(given)
    content["run"] = {
        "relabel": __version__,
        "python": platform.python_version(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "prompts": [prompt.label for prompt in opened.cascade.prompts.values()],
        "calibrations": {name: judge.sha256 for name, judge in opened.cascade.calibrated.items()},
        "source": source_of(opened),
    }
    head = "# The resolved config of this run. `relabel run` reads it like any other; the block `run` only records.\n"
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)
    (opened.folder / CONFIG).write_text(head + text, encoding="utf-8")
