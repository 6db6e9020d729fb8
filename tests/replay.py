"""RLHN's recorded replies, served: a reply is found by the model and the query's text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Recorded:
    """A handler for a ReplyServer."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "instances.jsonl"
        self.instances = records(self.source)
        self.recorded = records(folder / "replies.jsonl")
        queries = {record["query_id"]: record["query"] for record in self.instances}
        self._texts = {(reply["model"], queries[reply["query_id"]]): reply["text"] for reply in self.recorded}

    def __call__(self, body: dict[str, Any]) -> str:
        prompt = body["messages"][-1]["content"]
        query = prompt.split("<query>\n", 1)[1].split("\n</query>", 1)[0]
        return str(self._texts[body["model"], query])

    def strong_verdicts(self) -> dict[str, dict[str, set[str]]]:
        """query_id -> label -> texts of the candidates that the strong model's recorded reply names."""
        passages = {
            record["query_id"]: [passage["text"] for passage in record["negative_passages"]]
            for record in self.instances
        }
        found: dict[str, dict[str, set[str]]] = {}
        for reply in self.recorded:
            if reply["stage"] == 2:
                texts = passages[reply["query_id"]]
                verdict = reply["text"].split("<verdict>")[1]
                found[reply["query_id"]] = {
                    label: {texts[int(number) - 1] for number in _numbers(verdict, label)}
                    for label in ("better", "worse")
                }
        return found


def _numbers(verdict: str, label: str) -> list[str]:
    block = verdict.split(f"<{label}>")[1].split(f"</{label}>")[0]
    return [part.split(")")[0] for part in block.split("Doc (")[1:]]
