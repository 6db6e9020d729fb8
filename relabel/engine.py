"""Drives a cascade over a source until the ledger holds every reply that is needed.

Instances are answered in any order and forgotten at once; what comes of them is derived afterwards, in the order of the
source, from the ledger alone (relabel.export). So memory is bounded by what is in flight, and a slow reply delays
nobody but itself.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice

from relabel.asker import Asker, Progress
from relabel.cascade import Cascade
from relabel.errors import InputError, RelabelError
from relabel.formats import Source
from relabel.limits import Stop
from relabel.records import UNANSWERED, Instance, Quarantined, Reply

_READ_AHEAD = 32

_IDLE_PASSES = 10
"""More passes in a row without a new reply than any number of models taking turns needs."""


async def answer(
    source: Source,
    cascade: Cascade,
    asker: Asker,
    progress: Progress,
    stop: Stop,
    *,
    workers: int,
    limit: int | None = None,
) -> None:
    """Have every call that the source needs answered, or as many as `stop` allows. Progress tells what came of it.

    Calls that are put off take another pass over the source, in which what was answered before costs nothing.
    """
    idle = 0
    while True:
        before = progress.replied
        await _pass(source, cascade, asker, progress, stop, workers, limit)
        if stop or not asker.put_off:
            return
        await asker.settle()
        idle = 0 if progress.replied > before else idle + 1
        if idle > _IDLE_PASSES:
            stop.request("the last passes over the source brought no reply")
        if stop:
            return


async def _pass(
    source: Source,
    cascade: Cascade,
    asker: Asker,
    progress: Progress,
    stop: Stop,
    workers: int,
    limit: int | None,
) -> None:
    queue: asyncio.Queue[Instance | None] = asyncio.Queue(2 * _READ_AHEAD)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_read(source, queue, progress, stop, workers, limit))
        for _ in range(workers):
            tasks.create_task(_work(cascade, asker, queue, progress, stop))


async def _read(
    source: Source,
    queue: asyncio.Queue[Instance | None],
    progress: Progress,
    stop: Stop,
    workers: int,
    limit: int | None,
) -> None:
    """Read ahead in a thread, so that a slow disk or hub does not hold up replies."""
    loop = asyncio.get_running_loop()
    records = islice(source, limit)
    with ThreadPoolExecutor(1, "reader") as thread:
        while not stop:
            try:
                batch = await loop.run_in_executor(thread, _take, records)
            except (RelabelError, OSError) as fault:
                error = fault if isinstance(fault, RelabelError) else InputError(f"the source cannot be read: {fault}")
                stop.admit_no_more(str(error), error)
                break
            for record in batch:
                if isinstance(record, Quarantined):
                    progress.quarantined += 1
                elif not stop:
                    progress.read += 1
                    await queue.put(record)
            progress.fraction_read = source.fraction()
            if len(batch) < _READ_AHEAD:
                break
    for _ in range(workers):
        await queue.put(None)


def _take(records: Iterator[Instance | Quarantined]) -> list[Instance | Quarantined]:
    return list(islice(records, _READ_AHEAD))


async def _work(
    cascade: Cascade, asker: Asker, queue: asyncio.Queue[Instance | None], progress: Progress, stop: Stop
) -> None:
    while (instance := await queue.get()) is not None:
        await asker.room()
        try:
            await _answer_one(cascade, asker, instance, progress)
        except RelabelError as fault:
            stop.request(str(fault), fault)


async def _answer_one(cascade: Cascade, asker: Asker, instance: Instance, progress: Progress) -> None:
    asking = cascade.judge(instance)
    replies: Sequence[Reply | None] | None = None
    try:
        while True:
            replies = await asker.ask_all(asking.send(replies), instance.query_id)  # type: ignore[arg-type]
    except StopIteration as finished:
        case = finished.value
        said = [verdict for verdicts in case.candidates for verdict in verdicts]
        anchors = [verdict for verdicts in case.positives for verdict in verdicts]
        asker.fuse.add((*said, *anchors))
        progress.instances += all(verdict.abstained != UNANSWERED for verdict in (*said, *anchors))
        for verdict in said:
            tier = progress.tiers[verdict.tier]
            tier.candidates += 1
            tier.abstained += verdict.abstained not in (None, UNANSWERED)


@contextmanager
def interruptible(stop: Stop) -> Iterator[None]:
    """Within it, a first Ctrl-C, SIGTERM or SIGHUP asks for a stop; a second gives up, and what is within ends."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    interrupts = 0

    def interrupt() -> None:
        nonlocal interrupts
        interrupts += 1
        if interrupts > 1 and task is not None:
            task.cancel()
        stop.request("interrupted")

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in signals:
        loop.add_signal_handler(number, interrupt)
    try:
        yield
    except asyncio.CancelledError:
        if interrupts < 2:  # it was somebody else who cancelled
            raise
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


Watch = Callable[[Progress], None]


async def watched(asker: Asker, progress: Progress, stop: Stop, watch: Watch, every: float) -> None:
    """Tell `watch` of the progress, again and again, until cancelled."""
    try:
        while True:
            progress.stopping, progress.pulse = stop.reason, asker.pulse()
            watch(progress)
            await asyncio.sleep(every)
    finally:
        watch(progress)
