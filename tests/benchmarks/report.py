"""How long the report of a large run takes, and how much memory, beside a plain loop over its decisions.

    python -m tests.benchmarks.report [--decisions 10000000] [--folder DIR]

Makes a run of two LLM tiers over so many candidates (source, ledger, and all that is derived from them, by the same
code as any run's; --folder keeps it, and takes it up again), then runs `relabel report` over it, `relabel diff` with
another policy's export, and the loop: read decisions.parquet in batches, parse the verdicts, count labels and actions
by subset. Each is a fresh process. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq

from relabel.config import Config
from relabel.export import derive, export_run
from relabel.folder import Opened, open_run, write_config
from relabel.ledger import Entry, Ledger
from relabel.records import Call, Instance, Reply, Usage
from relabel.testing import rlhn_reply
from tests.benchmarks.pipeline import measured

CANDIDATES, SUBSETS = 15, 15
_WORDS = "a passage on the topic that the question asks about, with some detail and no clear answer to it. "


def main() -> None:
    """Make the run, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decisions", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path)
    for part in ("--make", "--loop"):  # in a process of their own: a child begins with its parent's peak
        parser.add_argument(part, type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.make:
        make(given.make, given.decisions)
        return
    if given.loop:
        loop(given.loop)
        return
    with tempfile.TemporaryDirectory(prefix="relabel-report-") as scratch:
        folder = given.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "run" / "report.json").is_file():
            command = (sys.executable, "-m", "tests.benchmarks.report", "--decisions", str(given.decisions))
            subprocess.run([*command, "--make", str(folder)], check=True)
        print(json.dumps(measure(folder, given.decisions)))


def measure(folder: Path, decisions: int) -> dict[str, Any]:
    """Seconds and MiB of each, and what the loop takes beside the report."""
    run, other = str(folder / "run"), str(folder / "other")
    found: dict[str, Any] = {"decisions": decisions}
    commands = {
        "report": ("relabel", "report", run),
        "diff": ("relabel", "diff", run, other, "--to", str(folder / "diff.html")),
        "loop": ("tests.benchmarks.report", "--loop", str(folder / "run" / "decisions.parquet")),
    }
    for name, command in commands.items():
        wall, cpu, peak = measured(*command)
        found[name] = {"seconds": round(wall, 1), "cpu_seconds": round(cpu, 1), "peak_mib": round(peak)}
        print(f"{name:<8} {wall:7.1f} s  {cpu:7.1f} s of CPU  {peak:6.0f} MiB", flush=True)
    found["ratio"] = round(found["loop"]["seconds"] / found["report"]["seconds"], 2)
    print(f"the loop takes {found['ratio']:.2f} times as long as the report")
    return found


def loop(path: Path) -> None:
    """What one would write oneself: counts by subset, tier and label, and by action."""
    counts: Counter[tuple[str, ...]] = Counter()
    for batch in pq.ParquetFile(path).iter_batches(20_000, columns=["subset", "action", "verdicts"]):
        for subset, action, verdicts in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            counts[subset, action] += 1
            for one in orjson.loads(verdicts):
                counts[subset, one["tier"], one.get("label") or one["abstained"]] += 1
    print(len(counts), counts.total())


def make(folder: Path, decisions: int) -> None:
    """A run whose ledger answers all, its derived files, and an export under another policy."""
    started = time.monotonic()
    source = folder / "train.jsonl"
    with source.open("wb") as file:
        for number in range(decisions // CANDIDATES):
            file.write(orjson.dumps(record(number), option=orjson.OPT_APPEND_NEWLINE))
    opened = open_run(config(source, folder / "run", ["better", "worse"], []))
    opened.folder.mkdir()
    with Ledger(opened.folder, [], write=True) as ledger:
        asyncio.run(fill(opened, ledger))
        print(f"made {decisions:,} candidates, with replies, in {time.monotonic() - started:.0f} s", flush=True)
        started = time.monotonic()
        derive(opened, ledger)
        write_config(opened)
    print(f"derived and reported in {time.monotonic() - started:.0f} s", flush=True)
    export_run(opened.folder, policy="{relabel: [better], drop: [worse]}", to=folder / "other/")


def record(number: int) -> dict[str, Any]:
    """An instance whose passages are of 200 letters each, every text different."""
    passages = [
        {"docid": f"{number}-{n}", "title": "", "text": f"{number}.{n} {_WORDS * 2}"} for n in range(CANDIDATES + 1)
    ]
    return {
        "query_id": str(number),
        "query": f"what is to be known about the topic number {number}?",
        "positive_passages": passages[:1],
        "negative_passages": passages[1:],
        "subset": f"subset-{number % SUBSETS}",
    }


def config(source: Path, folder: Path, relabel: list[str], drop: list[str]) -> Config:
    """Two tiers of the rlhn prompt."""
    judge = {"prompt": "rlhn", "client": "local"}
    return Config.model_validate(
        {
            "input": {"path": str(source)},
            "output": {"dir": str(folder)},
            "clients": {"local": {"kind": "openai", "base_url": "http://127.0.0.1:9/v1"}},
            "cascade": [
                {
                    "name": "cheap",
                    "judge": {**judge, "model": "small"},
                    "escalate": {"labels": ["better", "worse", "abstained"], "scope": "instance"},
                },
                {"name": "strong", "judge": {**judge, "model": "large"}},
            ],
            "policy": {"relabel": relabel, "drop": drop},
            "prices": {"small": {"prompt": 0.15, "completion": 0.6}, "large": {"prompt": 2.5, "completion": 10}},
        }
    )


async def fill(opened: Opened, ledger: Ledger) -> None:
    """Answer every call of every instance, and store the replies."""
    waiting: list[asyncio.Task[None]] = []
    for instance in opened.source:
        assert isinstance(instance, Instance)
        for call, reply in answered(opened, instance):
            waiting.append(asyncio.create_task(ledger.append(Entry(call, reply, "local"))))
        if len(waiting) >= 2000:
            await asyncio.gather(*waiting)
            waiting.clear()
    await asyncio.gather(*waiting)


def answered(opened: Opened, instance: Instance) -> Iterator[tuple[Call, Reply]]:
    """The calls that an instance leads to, with their replies: the first tier finds something in two of five."""
    asking = opened.cascade.judge(instance)
    replies: Sequence[Reply] | None = None
    while True:
        try:
            calls = asking.send(replies)  # type: ignore[arg-type]
        except StopIteration:
            return
        replies = [reply_to(call, instance.line) for call in calls]
        yield from zip(calls, replies, strict=True)


def reply_to(call: Call, number: int) -> Reply:
    """What a tier says of an instance."""
    found = number % 5 < 2
    strong = call.tier == "strong"
    better = [1 + number % CANDIDATES] if found and (not strong or number % 3) else []
    worse = [1 + (number + 4) % CANDIDATES] if found and number % 2 else []
    return Reply("ok", rlhn_reply(better=better, worse=worse), "stop", model="m", usage=Usage(1200, 0, 150))


if __name__ == "__main__":
    main()
