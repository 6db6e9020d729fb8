"""What each preset takes and finds on the same instances, side by side.

    python -m tests.benchmarks.presets [--data LABELS.jsonl.gz] [--instances 200] [--accuracy 1.0] [--malformed 0.0]

The set has planted false negatives (tests/planted.py): the data beside the checkout, or a file in its layout. The judge
is a local server that answers from the human labels. Tokens are a quarter of the letters; for the rlhn prompt, which
asks for reasoning, the judge writes about 65 tokens for each document, as the replies do that RLHN's authors recorded.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from relabel.runs import run
from relabel.testing import Answer, LabelledJudge, ReplyServer
from tests.planted import Planted, plant

PRESETS = ("rlhn", "arhn", "answer-cascade")
DATA = Path(__file__).parents[3] / "shared" / "data" / "labels" / "mediqa2019.jsonl.gz"
_REASONING = "The document names the topic, and this is what it says of the question that was asked. " * 3


@dataclass(frozen=True)
class Taken:
    """What a preset came to, for each judged candidate where it says so."""

    calls: dict[str, float]
    prompt: float
    completion: float
    usd: float
    prefix: float
    precision: float
    recall: float
    undecided: float


def reasoning(judge: LabelledJudge) -> Any:
    """The judge, with reasons written out where the prompt asks for them."""

    def handler(body: dict[str, Any]) -> Answer:
        answer = judge(body)
        documents = str(body["messages"][-1]["content"]).count("\nDoc (")
        return replace(answer, text=answer.text.replace("Each document in turn.", _REASONING * documents))

    return handler


def measure(preset: str, planted: Planted, judge: LabelledJudge, folder: Path) -> Taken:
    """Run a preset over the set."""
    source = planted.write(folder / "train.jsonl")
    with ReplyServer(reasoning(judge)) as server:
        overrides = [f"input.path={source}", f"clients.openai.base_url={server.url}"]
        report = run(preset, overrides=overrides, output=folder / preset, say=lambda message: None).report
    assert report is not None
    rows = pq.read_table(folder / preset / "decisions.parquet").to_pylist()
    found = {(row["query_id"], row["docid"]) for row in rows if row["action"] != "keep"}
    tiers, judged = report["tiers"], len(rows)
    prompt = sum(tier["prompt_tokens"] for tier in tiers.values())
    right = len(found & planted.planted)
    return Taken(
        {name: tier["calls"] / judged for name, tier in tiers.items() if tier["calls"]},
        prompt / judged,
        sum(tier["completion_tokens"] for tier in tiers.values()) / judged,
        report["usd"] / judged * 1000,
        sum((tier["prefix_share"] or 0) * tier["prompt_tokens"] for tier in tiers.values()) / prompt,
        right / len(found) if found else 1.0,
        right / len(planted.planted),
        report["candidates"]["undecided"] / judged,
    )


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--instances", type=int, default=200)
    parser.add_argument("--accuracy", type=float, default=1.0)
    parser.add_argument("--malformed", type=float, default=0.0)
    given = parser.parse_args()
    if not given.data.is_file():
        parser.error(f"{given.data}: not there; name a labelled set with --data")
    planted = plant(given.data, most=given.instances)
    judge = planted.judge(accuracy=given.accuracy, malformed=given.malformed)
    with tempfile.TemporaryDirectory(prefix="relabel-bench-") as scratch:
        taken = {preset: measure(preset, planted, judge, Path(scratch)) for preset in PRESETS}
    candidates = sum(len(record["negative_passages"]) for record in planted.records)
    title = (
        f"{given.data.name}: {len(planted.records)} instances, {candidates} candidates, {len(planted.planted)} planted"
    )
    table = Table(title=f"{title}; for each judged candidate:", box=None, title_justify="left")
    table.add_column("")
    for preset in PRESETS:
        table.add_column(preset, justify="right")
    lines: dict[str, Callable[[Taken], str]] = {
        "calls": lambda one: " + ".join(f"{n:.2f} {tier}" for tier, n in one.calls.items()),
        "prompt tokens": lambda one: f"{one.prompt:,.0f}",
        "completion tokens": lambda one: f"{one.completion:,.0f}",
        "prefix sent before": lambda one: f"{one.prefix:.0%}",
        "US$ for 1,000": lambda one: f"{one.usd:.3f}",
        "precision": lambda one: f"{one.precision:.3f}",
        "recall": lambda one: f"{one.recall:.3f}",
        "undecided": lambda one: f"{one.undecided:.1%}",
    }
    for name, shown in lines.items():
        table.add_row(name, *(shown(taken[preset]) for preset in PRESETS))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
