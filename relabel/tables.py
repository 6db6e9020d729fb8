"""The tables of a run: decisions.parquet, a row for each candidate, and positives.parquet, a row for each positive that
a judge was asked about.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from relabel.arrow import without_pandas
from relabel.records import Outcome, Verdict, Verdicts
from relabel.tally import is_suspect

DECISIONS, POSITIVES = "decisions.parquet", "positives.parquet"

_ROW_GROUP = 20_000
_TYPES = {
    "position": "int32",
    "line": "int64",
    "offset": "int64",
    "score": "double",
    "mined_score": "double",
    "suspect": "bool",
}
"""The types of the columns that are no texts."""

_DECISION = (
    *("query_id", "docid", "subset", "position", "action", "instance_action", "rule", "tier", "label", "score"),
    *("score_kind", "evidence", "offset", "found", "reason", "verdicts", "trail"),
    *("instance_rule", "mined_score", "line"),
)
_POSITIVE = (
    *("query_id", "docid", "subset", "position", "suspect", "tier", "label", "score"),
    *("score_kind", "evidence", "offset", "found", "verdicts", "line"),
)


class _Table:
    """Rows gathered by column, and written in groups."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        without_pandas()
        self._schema = pa.schema([(name, pa.type_for_alias(_TYPES.get(name, "string"))) for name in names])
        self.columns: dict[str, list[Any]] = {name: [] for name in names}
        self._writer = pq.ParquetWriter(path.absolute(), self._schema, compression="zstd")

    def fill(self, finals: Sequence[Verdict | None]) -> None:
        """Append what the final verdict of each row says."""
        for name in ("tier", "label", "score", "score_kind", "evidence", "offset", "found"):
            self.columns[name] += [final and getattr(final, name) for final in finals]

    def keep_small(self) -> None:
        """Write what has been gathered, once it is enough for a group."""
        if len(self.columns["line"]) >= _ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        self._writer.write_table(pa.table(self.columns, schema=self._schema))
        for column in self.columns.values():
            column.clear()

    def close(self) -> None:
        """Write what is left, and the footer."""
        if self.columns["line"]:
            self._flush()
        self._writer.close()


class DecisionsWriter(_Table):
    """Streams decisions.parquet: one row per candidate, in input order."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, _DECISION)

    def write(self, outcome: Outcome) -> None:
        """Append a row for each of the instance's candidates."""
        columns, instance, count = self.columns, outcome.instance, len(outcome.decisions)
        columns["query_id"] += [instance.query_id] * count
        columns["subset"] += [instance.subset] * count
        columns["position"] += range(1, count + 1)
        columns["instance_action"] += [outcome.action] * count
        columns["instance_rule"] += [outcome.rule] * count
        columns["line"] += [instance.line] * count
        columns["docid"] += [passage.docid for passage in instance.negatives]
        columns["mined_score"] += [passage.score for passage in instance.negatives]
        columns["action"] += [decision.action for decision in outcome.decisions]
        columns["rule"] += [decision.rule for decision in outcome.decisions]
        columns["reason"] += [decision.reason for decision in outcome.decisions]
        self.fill([decision.verdicts[-1] if decision.verdicts else None for decision in outcome.decisions])
        said: dict[int, tuple[str, str]] = {}
        for decision in outcome.decisions:
            found = said.get(id(decision))
            if found is None:
                found = said[id(decision)] = verdicts_json(decision.verdicts), trail_of(decision.verdicts)
            columns["verdicts"].append(found[0])
            columns["trail"].append(found[1])
        self.keep_small()


class PositivesWriter(_Table):
    """Streams positives.parquet: one row per judged positive, in input order.

    `suspect` is true where no answer was found in it; null where the judge abstained.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, _POSITIVE)

    def write(self, outcome: Outcome) -> None:
        """Append a row for each of the instance's positives that was judged."""
        columns, instance = self.columns, outcome.instance
        for place, verdicts in enumerate(outcome.positives):
            if verdicts:
                columns["query_id"].append(instance.query_id)
                columns["docid"].append(instance.positives[place].docid)
                columns["subset"].append(instance.subset)
                columns["position"].append(place + 1)
                columns["suspect"].append(is_suspect(verdicts))
                columns["verdicts"].append(verdicts_json(verdicts))
                columns["line"].append(instance.line)
                self.fill([verdicts[-1]])
        self.keep_small()


def trail_of(verdicts: Verdicts) -> str:
    """What each tier said, as a JSON object from tier to label, first tier first: `{"cheap": "worse", "strong":
    "abstained: length"}`. There are few of them, however many candidates, so that a run is easily grouped by them.
    """
    return json.dumps({one.tier: one.label or f"{ABSTAINED}{one.abstained}" for one in verdicts}, ensure_ascii=False)


ABSTAINED = "abstained: "
"""What begins an abstention in a trail; its reason follows."""


def verdicts_json(verdicts: Verdicts) -> str:
    """The verdicts behind a decision as a JSON list, first tier first; what a verdict does not have is left out."""
    said = []
    for verdict in verdicts:
        fields = {name: getattr(verdict, name) for name in Verdict.__slots__}
        said.append({name: value for name, value in fields.items() if value is not None})
    return orjson.dumps(said).decode()
