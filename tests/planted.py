"""Real labelled sets with planted false negatives: per query one human positive is kept as the labelled one, and all
the others are hidden among the true negatives.
"""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relabel.testing import LabelledJudge


@dataclass
class Planted:
    """A training set in the Tevatron layout, which of its negatives are planted, and all labels.

    `planted` holds (query_id, docid); `labels` grades by query and text.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    planted: set[tuple[str, str]] = field(default_factory=set)
    labels: dict[str, dict[str, float]] = field(default_factory=dict)

    def judge(self, **settings: Any) -> LabelledJudge:
        return LabelledJudge(self.labels, relevant=1, **settings)

    def write(self, path: Path) -> Path:
        path.write_text("".join(json.dumps(record) + "\n" for record in self.records), encoding="utf-8")
        return path


def plant(path: Path, *, most: int | None = None) -> Planted:
    """From a file in the layout of `../shared/data/labels`. A relevant passage's grade is 1 and the human grade's share
    beyond; queries without a positive, without a second passage, or asked twice are left out, and so is all but the
    first of equal texts.
    """
    queries: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            queries[str(row["qid"])].append(row)
    found = Planted()
    for query_id, rows in queries.items():
        texts: dict[str, dict[str, Any]] = {}
        for row in rows:
            texts.setdefault(" ".join(row["text"].split()), row)
        if "" in texts and texts[""]["positive"]:
            del texts[""]
        best = max((row for row in texts.values() if row["positive"]), key=lambda row: row["human"], default=None)
        query = rows[0]["query"].strip()
        if best is None or len(texts) < 2 or query in found.labels or not query:
            continue
        found.labels[query] = {row["text"]: _grade(row) for row in texts.values()}
        others = [row for row in texts.values() if row is not best]
        found.planted |= {(query_id, str(row["docid"])) for row in others if row["positive"]}
        found.records.append(
            {
                "query_id": query_id,
                "query": query,
                "positive_passages": [_passage(best)],
                "negative_passages": [_passage(row) for row in others],
            }
        )
        if len(found.records) == most:
            break
    return found


def _grade(row: dict[str, Any]) -> float:
    return float(row["human"]) / 100 + bool(row["positive"])


def _passage(row: dict[str, Any]) -> dict[str, str]:
    return {"docid": str(row["docid"]), "title": "", "text": row["text"]}
