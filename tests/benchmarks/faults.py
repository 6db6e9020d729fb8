"""What becomes of a run whose process is killed, and whose server refuses, fails and is slow.

    python -m tests.benchmarks.faults kills  [--runs 100] [--instances 60] [--seed 0]
    python -m tests.benchmarks.faults storm  [--requests 2000] [--per-second 200] [--latency 0.1]
    python -m tests.benchmarks.faults capped [--per-second 200] [--burst 20] [--latency 0.1] [--seconds 40]

kills   runs killed with SIGKILL at random moments, once or several times, and resumed: whether the files are those of a
        run that nobody disturbed, how many requests were asked more than once, and whether a stored reply was lost
storm   20 % of attempts get a 429, 5 % a 500, 502, 503 or 529, 2 % a reset, 1 % nonsense: replies/s beside those of the
        same server without faults, and whether each request came to an end
capped  a server that takes so many requests a second, and a config that says nothing of it: when the client has found
        out, and what is refused after that

The server is `python -m relabel.testing`, in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from relabel.ledger import Ledger, segments
from relabel.testing import Answer, ReplyServer, rlhn_reply
from tests.conftest import tevatron

STORM = {"429": 0.2, "500": 0.0125, "502": 0.0125, "503": 0.0125, "529": 0.0125, "reset": 0.02, "malformed": 0.01}
RUN = [sys.executable, "-m", "relabel", "run"]


def make(folder: Path, instances: int, url: str, **client: Any) -> Path:
    """A source and a config with one tier that asks once about every instance; returns the config."""
    source = folder / "train.jsonl"
    source.write_text("".join(json.dumps(tevatron(n, 3)) + "\n" for n in range(instances)), encoding="utf-8")
    judge = {"prompt": "rlhn", "model": "m", "client": "local"}
    config = {
        "input": {"path": str(source)},
        "clients": {"local": {"kind": "openai", "base_url": url, **client}},
        "cascade": [{"name": "only", "judge": judge}],
        "policy": {"relabel": ["better", "worse"]},
    }
    path = folder / "my.yaml"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


def derived(folder: Path) -> dict[str, bytes]:
    """The files that must not depend on what happened."""
    return {name: (folder / name).read_bytes() for name in ("cleaned.jsonl", "decisions.parquet", "quarantine.jsonl")}


def kills(runs: int, instances: int, seed: int) -> None:
    """Kill and resume, many times."""
    chance = random.Random(seed)

    def handler(body: dict[str, Any]) -> Answer:
        found = random.Random(str(body["messages"]))
        reply = rlhn_reply(better=[1]) if found.random() < 0.3 else rlhn_reply()
        return Answer(reply if found.random() < 0.9 else "nothing", latency=random.uniform(0.05, 0.6))

    killed = busy = again = in_flight = lost = differing = 0
    with tempfile.TemporaryDirectory() as scratch:
        with ReplyServer(handler) as server:
            config = make(Path(scratch), instances, server.url, concurrency=16)
            began = time.monotonic()
            subprocess.run([*RUN, str(config), "--output", f"{scratch}/0"], check=True, capture_output=True)
            whole = time.monotonic() - began
        undisturbed = derived(Path(scratch, "0"))
        number = 0
        while number < runs:
            folder = Path(scratch, "killed")
            shutil.rmtree(folder, ignore_errors=True)
            already, safe, before = killed, set[str](), Counter[str]()
            with ReplyServer(handler) as server:
                address = f"clients.local.base_url={server.url}"
                command = [*RUN, str(config), "--output", str(folder), "--set", address]
                for kill in range(chance.choice([1, 1, 2, 3])):
                    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                    time.sleep(chance.uniform(0.1, whole * 0.95**kill))
                    process.send_signal(signal.SIGKILL)
                    killed += process.wait() == -signal.SIGKILL
                    lost += sum(server.keys[key] > before[key] for key in safe)
                    safe, before = stored(folder, list(server.keys)), Counter(server.keys)
                    busy += bool(before.keys() - safe)
                    in_flight += len(before.keys() - safe)
                if killed == already:
                    continue
                subprocess.run(command, check=True, capture_output=True)
                lost += sum(server.keys[key] > before[key] for key in safe)
                again += server.keys.total() - len(server.keys)
            number += 1
            differing += derived(folder) != undisturbed
            print(f"\r{number} runs, {killed} kills", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    print(
        f"{runs} runs, {killed} kills, {busy} with requests in flight: {differing} runs differ from the undisturbed one"
    )
    print(f"requests asked again: {again}; in flight when their process was killed: {in_flight}")
    print(f"stored replies that were asked for again: {lost}")


def stored(folder: Path, keys: list[str]) -> set[str]:
    """Which of these replies a ledger holds."""
    if not segments(folder):
        return set()
    with Ledger(folder) as ledger:
        return {key for key in keys if ledger.get(key) is not None}


@contextmanager
def misbehaving(*options: str) -> Iterator[str]:
    """The address of a server in a process of its own."""
    command = [sys.executable, "-m", "relabel.testing", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.send_signal(signal.SIGTERM)
            process.stdout.read()


def counts(url: str) -> dict[str, Any]:
    """What a server was asked and gave so far."""
    with urllib.request.urlopen(url.removesuffix("/v1") + "/counts") as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def watched(config: Path, url: str, every: float) -> Iterator[tuple[float, dict[str, Any]]]:
    """Run it to its end; yields seconds since the first request and the counts, again and again."""
    with subprocess.Popen([*RUN, str(config)], cwd=config.parent, stdout=subprocess.DEVNULL) as process:
        started = math.inf
        while process.poll() is None:
            time.sleep(every)
            found = counts(url)
            if found["requests"]:
                started = min(started, time.monotonic())
                yield time.monotonic() - started, found
        if process.returncode:
            sys.exit(f"the run ended with {process.returncode}")


def storm(requests: int, per_second: float, latency: float) -> None:
    """The same run before a server with faults and without."""
    limits = ["--per-second", str(per_second), "--latency", str(latency), "--burst", str(per_second / 10)]
    rates = []
    for faults in (STORM, {}):
        told = [f"--fault={name}={share}" for name, share in faults.items()]
        with tempfile.TemporaryDirectory() as scratch, misbehaving(*limits, *told) as url:
            config = make(Path(scratch), requests, url)
            seen = list(watched(config, url, 0.25))
            found = seen[-1][1]
            gave = found["gave"]
            seconds = next(at for at, then in seen if then["gave"].get("ok") == gave["ok"])
            report = json.loads((config.parent / "outputs" / "my" / "report.json").read_bytes())
        decided = report["candidates"]
        name = "storm" if faults else "no faults"
        attempts = found["requests"] - gave.get("too many", 0)
        rates.append(gave["ok"] / seconds)
        allowed = per_second * gave["ok"] / attempts
        print(
            f"{name:10} {gave['ok']:,} replies in {seconds:.1f} s: {rates[-1]:.0f}/s, {rates[-1] / allowed:.0%} of the "
            f"{allowed:.0f}/s that the server allowed; {found['requests']:,} attempts, {gave}"
        )
        print(
            f"{'':10} candidates {decided['in']:,} = {sum(decided[one] for one in ('relabel', 'drop', 'keep')):,} "
            f"decided, {decided['undecided']:,} of them abstained, {decided['unanswered']} unanswered"
        )
    print(f"ratio      {rates[0] / rates[1]:.2f} of the throughput without faults")


def capped(per_second: float, burst: float, latency: float, seconds: float) -> None:
    """How a client that is told nothing finds a server's limit."""
    limits = ["--per-second", str(per_second), "--latency", str(latency), "--burst", str(burst)]
    seen: list[tuple[float, int, int]] = []
    with tempfile.TemporaryDirectory() as scratch, misbehaving(*limits) as url:
        config = make(Path(scratch), int(per_second * seconds), url)
        for at, found in watched(config, url, 0.25):
            seen.append((at, found["gave"].get("ok", 0), found["gave"].get("too many", 0)))
    total = seen[-1][1]
    seen = [one for one in seen if one[1] < total]
    reached = math.inf
    print("seconds    taken/s   refused")
    for at, taken, refused in seen:
        then = max((one for one in seen if one[0] <= at - 1), default=None)
        if then is None:
            continue
        rate = (taken - then[1]) / (at - then[0])
        if rate >= 0.9 * per_second:
            reached = min(reached, at)
        if at % 2 < 0.25:
            share = (refused - then[2]) / max(taken - then[1] + refused - then[2], 1)
            print(f"{at:7.1f}    {rate:7.0f}   {share:7.1%}")
    settled = [one for one in seen if one[0] >= 10]
    first, last = settled[0], settled[-1]
    rate, share = (last[1] - first[1]) / (last[0] - first[0]), (last[2] - first[2]) / (sum(last[1:]) - sum(first[1:]))
    print(f"90 % of the cap reached after {reached:.1f} s")
    print(f"after 10 s: {rate:.0f}/s, {rate / per_second:.0%} of the cap, {share:.2%} refused")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    known: dict[str, tuple[Callable[..., None], dict[str, float]]] = {
        "kills": (kills, {"runs": 100, "instances": 60, "seed": 0}),
        "storm": (storm, {"requests": 2000, "per-second": 200.0, "latency": 0.1}),
        "capped": (capped, {"per-second": 200.0, "burst": 20.0, "latency": 0.1, "seconds": 40.0}),
    }
    for name, (_, options) in known.items():
        command = commands.add_parser(name)
        for option, default in options.items():
            command.add_argument(f"--{option}", type=type(default), default=default)
    given = vars(parser.parse_args())
    os.environ.pop("OPENAI_API_KEY", None)
    known[given.pop("command")][0](**given)
