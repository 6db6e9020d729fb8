"""`python -m relabel.testing`: a misbehaving server to try a set-up against, before it costs anything."""

from __future__ import annotations

import json
import math
import signal
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from relabel.testing.labelled import LabelledJudge
from relabel.testing.misbehaving import FAULTS, MisbehavingServer

_FAULT = f"NAME=SHARE of requests that fail so; may be repeated. Names: {', '.join(FAULTS)}."


def main(
    fault: Annotated[list[str] | None, typer.Option(metavar="NAME=SHARE", help=_FAULT)] = None,
    latency: Annotated[float, typer.Option(help="Seconds that an answer takes, at the median.")] = 0.1,
    spread: Annotated[float, typer.Option(help="Standard deviation of the latency's logarithm.")] = 0.0,
    slows: Annotated[float, typer.Option(help="Requests in flight that make it take twice as long.")] = math.inf,
    per_second: Annotated[float, typer.Option(help="Requests a second; more are refused with 429.")] = math.inf,
    burst: Annotated[float, typer.Option(help="How many of these may come at once.")] = 10.0,
    tokens_per_minute: Annotated[float, typer.Option(help="Tokens of prompts a minute.")] = math.inf,
    at_once: Annotated[float, typer.Option(help="Requests in flight; more are refused with 429.")] = math.inf,
    retry_after: Annotated[str, typer.Option(help="How a 429 says when to come back: none|seconds|date|ms.")] = "none",
    dies_after: Annotated[int, typer.Option(help="Be dead for a while after so many requests.")] = 0,
    dead_for: Annotated[float, typer.Option(help="For so many seconds.")] = 5.0,
    labels: Annotated[
        Path | None, typer.Option(help="JSON: grades by query and passage, 1 or more is relevant. Else none is.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed, other requests that fail.")] = 0,
    port: Annotated[int, typer.Option(help="0: any that is free.")] = 0,
) -> None:
    """An OpenAI-compatible server on loopback that answers every built-in prompt and misbehaves as it is told.

    Prints its address, the base_url of a client, and at the end what it was asked and gave (at any time under /counts,
    without the /v1). Stop it with Ctrl-C.
    """
    up = ExitStack()
    try:
        shares = {name: float(share) for name, _, share in (one.partition("=") for one in fault or [])}
        server = MisbehavingServer(
            LabelledJudge(json.loads(labels.read_bytes()) if labels else {}, relevant=1),
            faults=shares,
            latency=latency,
            spread=spread,
            slows=slows,
            per_second=per_second,
            burst=burst,
            tokens_per_minute=tokens_per_minute,
            at_once=at_once,
            retry_after=retry_after,  # type: ignore[arg-type]
            dies_after=dies_after,
            dead_for=dead_for,
            seed=seed,
            port=port,
        )
        up.enter_context(server)
    except (ValueError, OSError) as mistake:
        raise typer.BadParameter(str(mistake)) from None
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with up:
        print(server.url, flush=True)
        ended.wait()
    print(json.dumps(server.counts()))


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(main)
    app(prog_name="python -m relabel.testing")
