"""A run: one source, one config and one ledger, in one folder. The command line and a notebook both call `run`."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from relabel import __version__
from relabel.asker import Asker, Progress, TierProgress, most_open
from relabel.cascade import Cascade
from relabel.clients import Client, make_client
from relabel.clients.screen import ScreenClient
from relabel.config import Config, LLMJudgeSettings, ModelScreenSettings, ScreenSettings
from relabel.costs import Prices
from relabel.derived import QUARANTINE
from relabel.engine import Watch, answer, interruptible, watched
from relabel.errors import ConfigError, Damaged, InputError, RunStopped
from relabel.export import derive, report_again
from relabel.folder import (
    Opened,
    discard_derived,
    guard,
    held_before,
    open_run,
    recorded_config,
    tables_up_to_date,
    up_to_date,
    with_options,
    write_config,
)
from relabel.judges import Retry
from relabel.ledger import Ledger
from relabel.limits import Stop
from relabel.loading import load_config
from relabel.log import Log
from relabel.report import read_report
from relabel.salvage import salvage
from relabel.screens.models import client_of
from relabel.settings import BatchClientSettings
from relabel.text import pasteable

_LOGGED_EVERY = 30.0
"""Seconds between two lines of the log on how far a run is."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a call of `run` came to. `report` is None as long as the run is not complete; `stopped` then says why, and
    `goes_on_with` what the command needs besides to go on.
    """

    folder: Path
    report: dict[str, Any] | None
    progress: Progress
    stopped: str = ""
    goes_on_with: tuple[str, ...] = ()
    unchanged: bool = False


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
    try:
        return _run(opened, retry, watch, say)
    except Damaged:
        salvaged = salvage(opened.folder)
        if not salvaged:  # it is another run's ledger that cannot be read
            raise
    return _run(opened, retry, watch, say, news=salvaged)


def _run(
    opened: Opened, retry: Retry, watch: Watch | None, say: Callable[[str], None], news: Sequence[str] = ()
) -> Summary:
    known = read_report(opened.folder)
    if known is not None and not retry and tables_up_to_date(opened, known):
        current = known if up_to_date(opened, known) else report_again(opened, known)
        _check_usable(opened, current)
        return Summary(opened.folder, current, Progress({}), unchanged=True)
    guard(opened.folder, opened.config.input)
    clients = _clients(opened, lambda message: tell(message))
    _make(opened.folder)
    with Ledger(opened.folder, opened.config.ledger.read, write=True) as ledger, Log(opened.folder) as log:

        def tell(message: str) -> None:
            log.write("note", message=message)
            say(message)

        for one in news:
            tell(one)
        if before := held_before(opened):
            tell(f"{opened.folder} held a run {before}: what was derived from that is replaced, its replies stay.")
        write_config(opened)
        discard_derived(opened.folder)
        log.write("run", version=__version__, source=opened.config.input.path, sha256=opened.identity[1])
        return _answer_and_derive(opened, ledger, clients, log, retry, watch)


def _answer_and_derive(
    opened: Opened, ledger: Ledger, clients: dict[str, Client], log: Log, retry: Retry, watch: Watch | None
) -> Summary:
    screens = {tier.name for tier in opened.config.cascade if isinstance(tier.judge, ScreenSettings)}
    progress = Progress({tier.name: TierProgress(free=tier.name in screens) for tier in opened.cascade.tiers})
    stop = Stop()
    if clients:
        insisting = replace(opened, cascade=Cascade(opened.config, retry))
        _blocking(lambda: _answer(insisting, ledger, clients, progress, stop, watch, log), stop)
    log.write("answered", **_sent(progress), stopped=stop.reason)
    if isinstance(stop.error, Damaged):
        raise stop.error
    if stop.error is not None:
        kind = InputError if isinstance(stop.error, InputError) else RunStopped
        raise kind(f"{stop.error} {safe(opened.folder, progress)}")
    if stop or progress.unanswered:
        return Summary(opened.folder, None, progress, stop.reason or "some requests got no reply", stop.goes_on_with)
    try:
        report = derive(opened, ledger)
    except OSError as fault:
        what = f"{fault.filename or opened.folder}: cannot be written: {fault.strerror or fault}."
        raise RunStopped(f"{what} Every request has its reply. {safe(opened.folder, progress)}") from None
    log.write("derived", instances=report["instances"], candidates=report["candidates"])
    _check_usable(opened, report)
    return Summary(opened.folder, report, progress)


def safe(folder: Path, progress: Progress) -> str:
    """What a run that ended before its time has not lost."""
    kept = sum(tier.replied for tier in progress.tiers.values())
    held = f"{kept:,} new replies are safe in {folder}, with all that was there before" if kept else "Nothing is lost"
    return f"{held}; running again goes on."


def _clients(opened: Opened, say: Callable[[str], None]) -> dict[str, Client]:
    """The clients that the tiers ask, first tier first, checked as far as that goes without sending anything."""
    config = opened.config
    used = dict.fromkeys(tier.judge.client for tier in config.cascade if isinstance(tier.judge, LLMJudgeSettings))
    if not any(isinstance(config.clients[name], BatchClientSettings) for name in used):
        _refuse_batches(opened.folder)
    found = {name: make_client(name, config.clients[name], say, opened.folder) for name in used}
    for tier in config.cascade:
        if isinstance(tier.judge, ModelScreenSettings):
            found[client_of(tier.name)] = ScreenClient(tier.judge, say, opened.folder)
    return found


def _refuse_batches(folder: Path) -> None:
    """Send nothing live that may be in a batch under way: it would be paid twice."""
    from relabel.clients.batches.spool import under_way

    parts, requests = under_way(folder)
    if parts:
        raise ConfigError(
            f"{folder}: {requests:,} requests are in {parts:,} batches or files of a client of kind batch, and none in "
            f"this config is one. Take them in first with that client (`{pasteable('relabel', 'cancel', folder)}` ends "
            f"them early); or, to have them asked and paid again, delete {folder / 'batches.sqlite'}."
        )


def cancel_run(folder: str | Path, *, say: Callable[[str], None] = print) -> list[str]:
    """Cancel a run's batches that are under way; returns their ids. What was answered is taken in by the next run."""
    from relabel.clients.batches.client import cancel

    config, _ = recorded_config(Path(folder))
    batching = {name: one for name, one in config.clients.items() if isinstance(one, BatchClientSettings)}
    if not batching:
        raise ConfigError(f"{folder}: no client of this run is of `kind: batch`, so there is nothing to cancel")

    async def each() -> list[str]:
        return [one for name in batching for one in await cancel(name, batching[name], Path(folder), say)]

    found: list[str] = []

    async def main() -> None:
        found.extend(await each())

    _blocking(main, Stop())
    return found


def _check_usable(opened: Opened, report: dict[str, Any]) -> None:
    instances = report["instances"]
    if instances["in"] == instances["quarantined"]:
        raise InputError(
            f"{opened.config.input.path}: nothing usable: all {instances['in']} records are quarantined; "
            f"{opened.folder / QUARANTINE} says why"
        )


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise ConfigError(f"{folder}: cannot be made: {fault.strerror}; name another folder with --output") from None


async def _answer(
    opened: Opened,
    ledger: Ledger,
    clients: dict[str, Client],
    progress: Progress,
    stop: Stop,
    watch: Watch | None,
    log: Log,
) -> None:
    config = opened.config
    asker = Asker(ledger, clients, config.budget, Prices(config.rates), progress, stop, log.write, config.free)
    watchers = [watched(asker, progress, stop, lambda seen: log.write("progress", **_sent(seen)), every=_LOGGED_EVERY)]
    if watch is not None:
        watchers.append(watched(asker, progress, stop, watch, every=0.5))
    watching = [asyncio.create_task(watcher) for watcher in watchers]
    async with AsyncExitStack() as opening:
        for client in clients.values():
            await client.open()
            opening.push_async_callback(client.close)
        with interruptible(stop):
            workers, limit = most_open(clients), config.input.limit
            await answer(opened.source, opened.cascade, asker, progress, stop, workers=workers, limit=limit)
    for task in watching:
        task.cancel()


def _blocking(main: Callable[[], Coroutine[Any, Any, None]], stop: Stop) -> None:
    """Run to the end, from a script and from a notebook (whose event loop is running already) alike."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(main())
        return
    failed: list[BaseException] = []
    loops: list[asyncio.AbstractEventLoop] = []

    async def noted() -> None:
        loops.append(asyncio.get_running_loop())
        await main()

    def inside() -> None:
        try:
            asyncio.run(noted())
        except BaseException as fault:
            failed.append(fault)

    def interrupt(*_: object) -> None:
        if stop or not loops:
            raise KeyboardInterrupt
        loops[0].call_soon_threadsafe(stop.request, "interrupted")

    thread = threading.Thread(target=inside, name="relabel")
    thread.start()
    with _on_interrupt(interrupt):
        thread.join()
    if failed:
        raise failed[0]


@contextmanager
def _on_interrupt(act: Callable[..., None]) -> Iterator[None]:
    """Within it, Ctrl-C does this, where this thread is the one that is told of it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, act)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _sent(progress: Progress) -> dict[str, Any]:
    return {
        "instances": progress.instances,
        "sent": sum(tier.sent for tier in progress.tiers.values()),
        "from_ledger": sum(tier.from_ledger for tier in progress.tiers.values()),
        "unanswered": sum(tier.unanswered for tier in progress.tiers.values()),
    }
