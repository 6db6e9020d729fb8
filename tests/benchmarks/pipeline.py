"""How fast the whole pipeline is, beside a plain `AsyncOpenAI` loop that does the same work against the same server.

    python -m tests.benchmarks.pipeline throughput [--instances 10000] [--in-flight 256] [--latency 0.05]
    python -m tests.benchmarks.pipeline memory     [--small 5000] [--large 50000]
    python -m tests.benchmarks.pipeline rederive   [--instances 5000] [--times 4]
    python -m tests.benchmarks.pipeline ledger     REPLIES.jsonl   (one object with a `text` a line)

throughput  requests/s and CPU per request of both, and the ratio; then what running again takes
memory      peak resident memory for a small and a large set
rederive    instances/s of deriving everything anew after a change of policy, for a set and a larger one
ledger      bytes on disk a reply takes: the dictionary is learnt from half of the replies and measured on the others

The server runs in a process of its own. Every measured command is a fresh process, so that its CPU time and its peak
memory are its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from relabel import segment
from relabel.ledger import Entry, Ledger
from relabel.records import Call, Reply, Request
from relabel.testing import ReplyServer, rlhn_reply

CANDIDATES = 15
_REASONING = "\n".join(
    f"Doc ({n}): {'it names the topic and gives no answer, so it is not relevant at all. ' * 3}"
    for n in range(1, CANDIDATES + 1)
)
REPLIES = [
    reply.replace("Each document in turn.", _REASONING)
    for reply in (rlhn_reply(better=[3], worse=[1, 7]), rlhn_reply(worse=[2]), rlhn_reply(), rlhn_reply(), rlhn_reply())
]
"""Two in five find something, as in the replies that RLHN's authors recorded."""


def make_instances(path: Path, count: int) -> None:
    """Instances whose listwise prompt has about 8 KB, every text different."""
    words = "a passage on the topic that the question asks about, with some detail and no clear answer to it. "
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            passages = [
                {"docid": f"{number}-{n}", "title": "", "text": f"{number}.{n} {words * 4}"}
                for n in range(CANDIDATES + 1)
            ]
            record = {
                "query_id": str(number),
                "query": f"what is to be known about the topic number {number}?",
                "positive_passages": passages[:1],
                "negative_passages": passages[1:],
                "subset": "nq",
            }
            file.write(json.dumps(record) + "\n")


def make_config(path: Path, source: Path, url: str, in_flight: int) -> None:
    """One tier that asks about every instance."""
    judge = {"prompt": "rlhn", "model": "bench", "client": "local"}
    config = {
        "input": {"path": str(source)},
        "clients": {"local": {"kind": "openai", "base_url": url, "concurrency": in_flight}},
        "cascade": [{"name": "only", "judge": judge}],
        "policy": {"relabel": ["better", "worse"], "max_false_negatives": 8},
    }
    path.write_text(json.dumps(config), encoding="utf-8")


def baseline(source: Path, output: Path, url: str, in_flight: int) -> None:
    """The loop that everybody writes: read, render, ask, parse, decide, write."""
    from openai import AsyncOpenAI

    from relabel.parsing import Abstained, parse_rlhn
    from relabel.prompts import load_prompt
    from relabel.records import Passage, Reply

    prompt = load_prompt("rlhn")

    async def one(client: AsyncOpenAI, slots: asyncio.Semaphore, record: dict[str, Any]) -> dict[str, Any]:
        sides = [
            [Passage(p["docid"], p["title"], p["text"]) for p in record[side]]
            for side in ("positive_passages", "negative_passages")
        ]
        messages = prompt.messages("question-answering", record["query"], *sides)
        async with slots:
            completion = await client.chat.completions.create(
                model="bench",
                messages=cast(Any, messages),
                temperature=0.0,
                max_tokens=4096,
            )
        choice = completion.choices[0]
        labels = parse_rlhn(Reply("ok", choice.message.content or "", choice.finish_reason), len(sides[1]))
        if not isinstance(labels, Abstained):
            found = [p for p, label in zip(record["negative_passages"], labels, strict=True) if label != "irrelevant"]
            record["positive_passages"] += found
            record["negative_passages"] = [p for p in record["negative_passages"] if p not in found]
        return record

    async def main() -> None:
        slots = asyncio.Semaphore(in_flight)
        async with AsyncOpenAI(base_url=url, api_key="none") as client:
            with source.open(encoding="utf-8") as file:
                tasks = [asyncio.create_task(one(client, slots, json.loads(line))) for line in file]
            with output.open("w", encoding="utf-8") as out:
                for task in tasks:
                    out.write(json.dumps(await task) + "\n")

    asyncio.run(main())


def measured(*command: str) -> tuple[float, float, float]:
    """(wall seconds, CPU seconds, peak MiB) of a command of this interpreter, run to success."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    probe = "import resource,sys,runpy; sys.argv=sys.argv[1:]; f=sys.argv[0];\n"
    probe += "try: runpy.run_module(f, run_name='__main__', alter_sys=True)\n"
    probe += "except SystemExit as e: assert not e.code, e.code\n"
    probe += "print('PEAK', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    done = subprocess.run([sys.executable, "-c", probe, *command], check=True, capture_output=True, text=True)
    wall = time.monotonic() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, int(done.stdout.rsplit("PEAK", 1)[1]) / 1024


def scripted(body: dict[str, Any]) -> str:
    """One of the replies, the same for the same query."""
    return REPLIES[int(body["messages"][1]["content"].split("number ", 1)[1].split("?")[0]) % len(REPLIES)]


def serve(port: int, latency: float) -> None:
    """Answer everything with the same reply, until killed."""
    with ReplyServer(scripted, latency=latency, port=port) as server:
        print(server.url, flush=True)
        sys.stdin.read()


class Server:
    """The server in a process of its own."""

    def __init__(self, latency: float) -> None:
        command = [sys.executable, "-m", __spec__.name, "serve", "--latency", str(latency)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def print_rate(name: str, requests: int, wall: float, cpu: float, peak: float) -> None:
    """One line of the comparison."""
    print(f"{name:18} {requests / wall:8,.0f} requests/s  {cpu / requests * 1e3:6.3f} ms CPU  {peak:5.0f} MiB")


def throughput(folder: Path, instances: int, in_flight: int, latency: float) -> None:
    """Both, in turn, and the ratio."""
    source, config = folder / "train.jsonl", folder / "bench.yaml"
    make_instances(source, instances)
    run = ("relabel", "run", str(config), "--output", str(folder / "run"))
    with Server(latency) as server:
        make_config(config, source, server.url, in_flight)
        plain = (__spec__.name, "baseline", str(source), str(folder / "plain.jsonl"), server.url, str(in_flight))
        wall, cpu, peak = measured(*plain)
        print_rate("AsyncOpenAI loop", instances, wall, cpu, peak)
        ours, cpu, peak = measured(*run)
        print_rate("relabel run", instances, ours, cpu, peak)
        print(f"ratio              {wall / ours:8.2f} times the requests/s, ledger, decisions and cleaned set included")
        again, _, _ = measured(*run)
        print(f"run again          {again:8.2f} s for the whole process, nothing sent")
    ledger = sum(path.stat().st_size for path in (folder / "run").glob("ledger-*"))
    print(f"ledger             {ledger / instances:8,.0f} bytes a reply of {len(REPLIES[0]):,} letters (near copies)")


def memory(folder: Path, small: int, large: int) -> None:
    """The same pipeline on two sizes."""
    with Server(0.0) as server:
        for count in (small, large):
            source, config = folder / f"{count}.jsonl", folder / f"{count}.yaml"
            make_instances(source, count)
            make_config(config, source, server.url, 256)
            wall, _, peak = measured("relabel", "run", str(config), "--output", str(folder / f"run-{count}"))
            print(f"{count:8,} instances  {peak:6.0f} MiB at the peak  {wall:7.1f} s")


def rederive(folder: Path, instances: int, times: int) -> None:
    """Export under another policy, for a set and one `times` as large."""
    with Server(0.0) as server:
        for count in (instances, instances * times):
            source, config, run = folder / f"{count}.jsonl", folder / f"{count}.yaml", folder / f"run-{count}"
            make_instances(source, count)
            make_config(config, source, server.url, 256)
            measured("relabel", "run", str(config), "--output", str(run))
            wall, _, peak = measured("relabel", "export", str(run), "--policy", "{drop: [better]}")
            print(f"{count:8,} instances  {count / wall:8,.0f} instances/s  {wall:6.1f} s  {peak:5.0f} MiB")


def ledger(folder: Path, replies: Path) -> None:
    """Fill a ledger with real replies and look at what it weighs."""
    texts = [json.loads(line)["text"] for line in replies.read_text(encoding="utf-8").splitlines()]
    segment.DICTIONARY_AFTER = len(texts[::2])
    with Ledger(folder, write=True) as book:
        for half, bodies in enumerate((texts[::2], texts[1::2])):
            book.store([entry(f"{half}-{number}", text) for number, text in enumerate(bodies)])
        before, _, learnt = packed(folder)
        rows = 50_000
        for start in range(0, rows, 500):
            book.store([entry(str(number), "") for number in range(start, start + 500)])
    _, empty, _ = packed(folder)
    size = sum(path.stat().st_size for path in folder.glob("ledger-*"))
    around = (size - rows * empty) / rows
    letters = sum(len(text.encode()) for text in texts) / len(texts)
    print(f"a reply of {letters:,.0f} bytes takes {learnt + around:,.0f}, of which {around:,.0f} around its text")
    print(f"without a dictionary {before + around:,.0f}; 40 million take {(learnt + around) * 0.04:,.0f} GB")


def entry(name: str, text: str) -> Entry:
    """A reply to a question of its own."""
    call = Call(Request("bench", ({"role": "user", "content": name},), {}), "only", "local", "rlhn")
    return Entry(call, Reply("ok", text, "stop"), "bench")


def packed(folder: Path) -> tuple[float, float, float]:
    """Mean size of a compressed body: before the dictionary, of the smallest, and with the dictionary."""
    with sqlite3.connect(next(folder.glob("ledger-*.sqlite"))) as db:
        select = "SELECT avg(length(body)), min(length(body)) FROM reply WHERE dictionary "
        plain, _ = db.execute(select + "= 0").fetchone()
        learnt, least = db.execute(select + "= 1").fetchone()
    return plain, least, learnt


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("throughput")
    command.add_argument("--instances", type=int, default=10_000)
    command.add_argument("--in-flight", type=int, default=256)
    command.add_argument("--latency", type=float, default=0.05)
    command = commands.add_parser("memory")
    command.add_argument("--small", type=int, default=5_000)
    command.add_argument("--large", type=int, default=50_000)
    command = commands.add_parser("rederive")
    command.add_argument("--instances", type=int, default=5_000)
    command.add_argument("--times", type=int, default=4)
    command = commands.add_parser("ledger")
    command.add_argument("replies", type=Path)
    command = commands.add_parser("serve")
    command.add_argument("--latency", type=float, default=0.0)
    command = commands.add_parser("baseline")
    for name, kind in (("source", Path), ("output", Path), ("url", str), ("in_flight", int)):
        command.add_argument(name, type=kind)
    given = vars(parser.parse_args())
    name = given.pop("command")
    if name == "serve":
        serve(0, given["latency"])
    elif name == "baseline":
        baseline(**given)
    else:
        os.environ.pop("OPENAI_BASE_URL", None)
        with tempfile.TemporaryDirectory(prefix="relabel-bench-") as scratch:
            measure: dict[str, Callable[..., None]] = {
                "throughput": throughput,
                "memory": memory,
                "rederive": rederive,
                "ledger": ledger,
            }
            measure[name](Path(scratch), **given)


if __name__ == "__main__":
    main()
