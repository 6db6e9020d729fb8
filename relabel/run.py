"""A run: one source, one config and one ledger, in one folder. The command line and a notebook both call `run`."""

from __future__ import annotations

import asyncio
import os
import platform
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import orjson
import yaml

from relabel import __version__
from relabel.cascade import Cascade
from relabel.clients import make_client
from relabel.config import Config, LLMJudgeSettings, PolicySettings, load_config, parse, read_yaml
from relabel.costs import Prices
from relabel.engine import Asker, Progress, Stop, TierProgress, Watch, answer, interruptible, watched
from relabel.errors import ConfigError, InputError, RunStopped
from relabel.export import DECISIONS, QUARANTINE, Derived, discard, outcomes, partial_path, write_all
from relabel.formats import Sink, Source, open_sink, open_source
from relabel.judges import Retry
from relabel.ledger import Ledger, segments
from relabel.log import Log
from relabel.report import PAGE, REPORT, build_report, read_report, write_report

CONFIG, REVIEWS = "config.yaml", "reviews.jsonl"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Summary:
    """What a call of `run` came to. `report` is None as long as the run is not complete; `stopped` then says why."""

    folder: Path
    report: dict[str, Any] | None
    progress: Progress
    stopped: str = ""
    unchanged: bool = False


@dataclass(frozen=True)
class Opened:
    """A config with what it names, checked and ready: its source and its cascade."""

    config: Config
    folder: Path
    source: Source
    cascade: Cascade
    identity: tuple[int, str]
    named: str | None = None

    @property
    def cleaned(self) -> Path:
        """Where the cleaned set goes."""
        if self.named is not None:
            return self.folder / self.named
        same = self.config.output.format in ("same", self.source.format_name)
        suffix = (
            self.source.suffix if same or self.source.suffix in (".jsonl.gz", ".jsonl.zst", ".parquet") else ".jsonl"
        )
        return self.folder / f"cleaned{suffix}"

    def sink(self, path: Path) -> Sink:
        """A place for the cleaned set, in the input's format unless another is asked for."""
        wanted = self.config.output.format
        if wanted in ("same", self.source.format_name):
            return self.source.sink(path)
        return open_sink(path, wanted)


def run(
    config: Config | str | Path,
    *,
    overrides: Sequence[str] = (),
    limit: int | None = None,
    output: str | Path | None = None,
    retry: Retry = frozenset(),
    watch: Watch | None = None,
    say: Callable[[str], None] = print,
) -> Summary:
    """Answer what the config's source needs, and derive the cleaned set; running again goes on where it stopped.

    `overrides` are `key.path=value`, `limit` takes the first records only, `output` is the run folder, `retry` asks
    once more for what was abstained or refused, `watch` is told of the progress twice a second, `say` of what is
    found out on the way. Raises RelabelError for what cannot be used.
    """
    loaded = load_config(config, overrides) if not isinstance(config, Config) else config
    opened = open_run(with_options(loaded, limit, output))
    fingerprint = _fingerprint(opened)
    known = read_report(opened.folder)
    if known is not None and not retry and _up_to_date(opened, known, fingerprint):
        return Summary(opened.folder, known, Progress({}), unchanged=True)
    opened.folder.mkdir(parents=True, exist_ok=True)
    with Ledger(opened.folder, opened.config.ledger.read, write=True) as ledger, Log(opened.folder) as log:
        _write_config(opened)
        _discard_derived(opened.folder)
        log.write("run", version=__version__, source=opened.config.input.path, sha256=opened.identity[1])

        def tell(message: str) -> None:
            log.write("note", message=message)
            say(message)

        progress = Progress({tier.name: TierProgress() for tier in opened.cascade.tiers})
        stop = Stop()
        if _asks_models(opened.config):
            insisting = replace(opened, cascade=Cascade(opened.config, retry))
            _blocking(lambda: _answer(insisting, ledger, progress, stop, tell, watch))
        log.write("answered", **_sent(progress), stopped=stop.reason)
        if stop.error is not None:
            if isinstance(stop.error, InputError):
                raise stop.error
            kept = sum(tier.replied for tier in progress.tiers.values())
            raise RunStopped(f"{stop.error}\n{kept:,} new replies are safe in {opened.folder}; running again goes on.")
        if stop or progress.unanswered:
            return Summary(opened.folder, None, progress, stop.reason or "some requests got no reply")
        report = derive(opened, ledger)
        log.write("derived", instances=report["instances"], candidates=report["candidates"])
    return Summary(opened.folder, report, progress)


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
    return Opened(config, Path(config.output.dir or "outputs/run"), source, cascade, source.identity())


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
    return opened


def recorded_config(folder: Path) -> tuple[Config, dict[str, Any]]:
    """A run's config, its folder where it now lies, and what its block `run` records. Raises ConfigError."""
    if not (folder / CONFIG).is_file():
        raise ConfigError(f"{folder}: not a run folder: there is no {CONFIG} in it")
    recorded = read_yaml(folder / CONFIG).get("run", {})
    return with_options(load_config(folder / CONFIG), None, folder), recorded


def find_policy(policy: str) -> PolicySettings:
    """A policy by its name (configs/policies, or a preset), from a YAML file, or as YAML: `{relabel: [better]}`."""
    from relabel.config import find_config, yaml_mapping
    from relabel.resources import shipped

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


def derive(opened: Opened, ledger: Ledger, *, partial: bool = False) -> dict[str, Any]:
    """Write all derived files of a run into its folder, from its ledger alone. Raises Unfinished."""
    records = outcomes(opened.source, opened.cascade, opened.config.policy, ledger, opened.config.input.limit)
    cleaned = opened.cleaned
    discard(partial_path(cleaned))
    derived = Derived(opened.folder, cleaned, opened.sink(partial_path(cleaned)))
    tally = write_all(records, derived, partial=partial)
    report = build_report(opened.config, tally, ledger)
    report["source"] = _source(opened)
    report["files"] = {path.name: _bytes(path) for path in _derived_files(opened)}
    report["fingerprint"] = _fingerprint(opened, ledger)
    write_report(opened.folder, report, opened.folder.name)
    if tally.instances == sum(tally.quarantined.values()):
        raise InputError(
            f"{opened.config.input.path}: nothing usable: all {tally.instances} records are quarantined; "
            f"{opened.folder / QUARANTINE} says why"
        )
    return report


def export_run(
    folder: str | Path,
    *,
    policy: str | None = None,
    format: str | None = None,
    to: str | Path | None = None,
    partial: bool = False,
) -> tuple[Path, dict[str, Any]]:
    """Derive a run's files again, from its ledger alone; returns where the cleaned set is, and the report.

    Without `to` they take the place of the run's own, and another policy or format becomes the run's. A `to` with a
    file's suffix takes the cleaned set alone; otherwise it is a folder for all that is derived.
    Raises RelabelError; Unfinished if replies are missing and `partial` is not set.
    """
    opened = reopen(folder, policy=policy)
    if format is not None:
        output = opened.config.output.model_copy(update={"format": format})
        opened = replace(opened, config=opened.config.model_copy(update={"output": output}))
    place = Path(to) if to is not None else None
    if place is None:
        with Ledger(opened.folder, opened.config.ledger.read, write=True) as ledger, Log(opened.folder) as log:
            report = derive(opened, ledger, partial=partial)
            _write_config(opened)
            log.write("exported", instances=report["instances"], candidates=report["candidates"])
        return opened.cleaned, report
    with ledger_of(opened.folder, opened.config) as ledger:
        if not place.suffix or place.is_dir():
            place.mkdir(parents=True, exist_ok=True)
            elsewhere = replace(opened, folder=place)
            return elsewhere.cleaned, derive(elsewhere, ledger, partial=partial)
        with tempfile.TemporaryDirectory(prefix=".relabel-", dir=place.parent) as scratch:
            elsewhere = replace(opened, folder=Path(scratch), named=place.name)
            report = derive(elsewhere, ledger, partial=partial)
            discard(place)
            elsewhere.cleaned.replace(place)
    return place, report


def ledger_of(folder: Path, config: Config) -> Ledger:
    """A run's ledger, for reading."""
    return Ledger(folder, config.ledger.read)


async def _answer(
    opened: Opened, ledger: Ledger, progress: Progress, stop: Stop, say: Callable[[str], None], watch: Watch | None
) -> None:
    config = opened.config
    used = {tier.judge.client for tier in config.cascade if isinstance(tier.judge, LLMJudgeSettings)}
    clients = {name: make_client(name, config.clients[name], say) for name in sorted(used)}
    asker = Asker(ledger, clients, config.budget, Prices(config.prices), progress, stop)
    workers = 16 + sum(client.concurrency for client in clients.values()) * 5 // 4
    watcher = asyncio.create_task(watched(progress, stop, watch, every=0.5)) if watch else None
    async with AsyncExitStack() as opening:
        for client in clients.values():
            await client.open()
            opening.push_async_callback(client.close)
        with interruptible(stop):
            await answer(
                opened.source, opened.cascade, asker, progress, stop, workers=workers, limit=config.input.limit
            )
    if watcher is not None:
        watcher.cancel()


def _blocking(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run to the end, from a script and from a notebook (whose event loop is running already) alike."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(main())
    result: list[T] = []
    failed: list[BaseException] = []

    def inside() -> None:
        try:
            result.append(asyncio.run(main()))
        except BaseException as fault:
            failed.append(fault)

    thread = threading.Thread(target=inside, name="relabel")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return result[0]


def with_options(config: Config, limit: int | None, output: str | Path | None) -> Config:
    """The config with what `--limit` and `--output` say."""
    changes: dict[str, Any] = {}
    if limit is not None:
        if limit < 1:
            raise ConfigError(f"--limit {limit}: expected 1 or more")
        changes["input"] = config.input.model_copy(update={"limit": limit})
    if output is not None:
        changes["output"] = config.output.model_copy(update={"dir": str(output)})
    return config.model_copy(update=changes)


def _asks_models(config: Config) -> bool:
    return any(isinstance(tier.judge, LLMJudgeSettings) for tier in config.cascade)


def _derived_files(opened: Opened) -> list[Path]:
    return [opened.cleaned, opened.folder / DECISIONS, opened.folder / QUARANTINE]


def _discard_derived(folder: Path) -> None:
    """Remove what another state of the run derived, so that nothing stale lies beside a run that does not finish."""
    for path in (*folder.glob("cleaned.*"), *folder.glob(".partial-*")):
        discard(path)
    for name in (DECISIONS, QUARANTINE, REPORT, PAGE):
        discard(folder / name)


def _bytes(path: Path) -> int:
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.is_dir() else path.stat().st_size


def _up_to_date(opened: Opened, known: dict[str, Any], fingerprint: dict[str, str]) -> bool:
    if known.get("fingerprint") != fingerprint or not (opened.folder / PAGE).is_file():
        return False
    if known.get("candidates", {}).get("unanswered"):
        return False
    files = {path.name: _bytes(path) for path in _derived_files(opened) if path.exists()}
    return bool(known.get("files") == files)


def _fingerprint(opened: Opened, ledger: Ledger | None = None) -> dict[str, str]:
    """What the derived files are a function of; while it stays the same, so do they."""
    config = opened.config.model_dump(mode="json", exclude={"output": {"dir"}, "input": {"path"}})
    reviews = opened.folder / REVIEWS
    return {
        "version": __version__,
        "code": _code(),
        "source": opened.identity[1],
        "config": sha256(orjson.dumps(config, option=orjson.OPT_SORT_KEYS)).hexdigest(),
        "prompts": " ".join(sorted(prompt.label for prompt in opened.cascade.prompts.values())),
        "ledger": ledger.head() if ledger else _head(opened),
        "reviews": sha256(reviews.read_bytes()).hexdigest() if reviews.is_file() else "",
    }


def _head(opened: Opened) -> str:
    if not segments(opened.folder):
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


def _source(opened: Opened) -> dict[str, Any]:
    size, digest = opened.identity
    return {
        "path": opened.config.input.path,
        "format": opened.source.format_name,
        "size": size,
        "sha256": digest,
    }


def _write_config(opened: Opened) -> None:
    content = opened.config.model_dump(mode="json")
    content["run"] = {
        "relabel": __version__,
        "python": platform.python_version(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "prompts": [prompt.label for prompt in opened.cascade.prompts.values()],
        "source": _source(opened),
    }
    head = "# The resolved config of this run. `relabel run` reads it like any other; the block `run` only records.\n"
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)
    (opened.folder / CONFIG).write_text(head + text, encoding="utf-8")


def _sent(progress: Progress) -> dict[str, Any]:
    return {
        "sent": sum(tier.sent for tier in progress.tiers.values()),
        "from_ledger": sum(tier.from_ledger for tier in progress.tiers.values()),
        "unanswered": sum(tier.unanswered for tier in progress.tiers.values()),
    }
