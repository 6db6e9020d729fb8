"""decisions.parquet and positives.parquet, asked by DuckDB: as many rows as there are, in bounded memory.

Candidates of one query are alike, so that intervals need counts by query. Where there are more than CLUSTERS queries,
they are bundled into as many by their hash: bundles are as independent as queries, and there are few enough of them.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Self

from relabel.errors import InputError
from relabel.records import UNANSWERED
from relabel.statistics import Sums, share_interval
from relabel.tables import ABSTAINED, DECISIONS, POSITIVES

CLUSTERS = 2000
MEMORY = "400MB"
FOUND = "rule IN ('false-negative', 'false-negative-removes-instance')"
"""What a judge has found to be a false negative, whatever the policy then does with it."""

NAMED = f"({FOUND} OR rule = 'duplicate-of-positive')"
"""What the decisions say is relevant: that, and a copy of a positive, however it was found."""

JUDGED = "NOT waits AND rule NOT IN ('unjudged', 'unanswered')"
"""What has been decided by what judges said, or by their saying nothing; of `rows` and what is made of them."""

DECIDED = f"{JUDGED} AND rule <> 'undecided'"
"""What has a verdict."""

_UNANSWERED = f'"{ABSTAINED}{UNANSWERED}"'

_IS_REPEAT = "regexp_full_match(query_id, '[0-9a-f]{32}-[0-9]+')"
"""Whether a query's id is one that relabel made, for the same query once more."""

_BANDS = ((20, 1), (100, 20), (1000, 100))
"""Places are told apart one by one up to 20, then by twenties up to 100, then by hundreds."""


class Trail(NamedTuple):
    """What the tiers said of so many candidates of a subset, and what was decided about them.

    `said` maps each tier that judged them to its label, or None where it abstained.
    """

    subset: str
    said: Mapping[str, str | None]
    action: str
    rule: str
    candidates: int


@dataclass(frozen=True)
class Flags:
    """For each tier, first to last, the labels by which it speaks against a candidate's being a negative."""

    tiers: Mapping[str, frozenset[str]]

    def of(self, said: Mapping[str, str | None]) -> dict[str, bool]:
        """Which of the tiers that gave a label flagged the candidate."""
        return {tier: said[tier] in labels for tier, labels in self.tiers.items() if said.get(tier) is not None}

    def disputes(self, said: Mapping[str, str | None]) -> int:
        """How often a tier differs from the one before it."""
        flags = list(self.of(said).values())
        return sum(one != other for one, other in pairwise(flags))


class Database:
    """DuckDB over Parquet files, in bounded memory and with its scratch files in a folder of its own."""

    def __init__(self) -> None:
        import duckdb

        self._scratch = tempfile.TemporaryDirectory(prefix="relabel-report-")
        self._paths: list[Path] = []
        settings: dict[str, Any] = {
            "memory_limit": MEMORY,
            "temp_directory": self._scratch.name,
            "preserve_insertion_order": False,
        }
        self.connection = duckdb.connect(":memory:", config=settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files."""
        self.connection.close()
        self._scratch.cleanup()

    def view(self, path: Path, name: str) -> None:
        """Give a Parquet file a name."""
        import duckdb

        self._paths.append(path)
        try:
            self.connection.read_parquet(_literal(path), hive_partitioning=False).create_view(name)
        except duckdb.Error as fault:
            raise InputError(f"{path}: cannot be read: {str(fault).splitlines()[0]}") from None

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        """All rows of a query's answer. Raises InputError for files that are not as they were written."""
        import duckdb

        try:
            return self.connection.execute(query).fetchall()
        except duckdb.Error as fault:
            names = " or ".join(map(str, self._paths))
            raise InputError(f"{names}: cannot be read: {str(fault).splitlines()[0]}") from None

    def note_labels(self, labels: Mapping[tuple[str, str], bool]) -> None:
        """The table `labels`: what people say of (query_id, docid)."""
        import pyarrow as pa

        columns = {
            "query_id": pa.array([query for query, _ in labels], pa.string()),
            "docid": pa.array([docid for _, docid in labels], pa.string()),
            "relevant": pa.array(list(labels.values()), pa.bool_()),
        }
        self.connection.register("labels", pa.table(columns))

    def cluster(self, table: str) -> str:
        """An expression for the cluster of a table's row: its query, or the bundle that this belongs to."""
        query = "query_id"
        if self.ask(f"SELECT coalesce(bool_or({_IS_REPEAT}), FALSE) FROM {table}")[0][0]:
            query = f"CASE WHEN {_IS_REPEAT} THEN query_id[:32] ELSE query_id END"
        name = f"subset || chr(0) || ({query})"
        (self.queries,) = self.ask(f"SELECT count(DISTINCT {name}) FROM {table}")[0]
        return f"hash({name}) % {CLUSTERS}" if self.queries > CLUSTERS else name

    def shares(
        self, group: str, hits: Mapping[str, str | tuple[str, str]], where: str = "TRUE", table: str = "rows"
    ) -> dict[Any, dict[str, Any]]:
        """For each value of `group`: its `candidates`, and of how many of them each condition in `hits` holds: the
        number, the share, and the share's 95 % interval over queries. A pair (hit, among) is a share of those of which
        `among` holds; they are counted, too.
        """
        pairs = {name: hit if isinstance(hit, tuple) else (hit, "TRUE") for name, hit in hits.items()}
        inner = "".join(
            f", count(*) FILTER (WHERE {among}) AS n{k}, count(*) FILTER (WHERE ({among}) AND ({hit})) AS x{k}"
            for k, (hit, among) in enumerate(pairs.values())
        )
        totals = "".join(
            f", count(*) FILTER (WHERE n{k} > 0), sum(x{k}), sum(n{k}), sum(x{k} * x{k}), sum(x{k} * n{k}), "
            f"sum(n{k} * n{k})"
            for k in range(len(pairs))
        )
        rows = self.ask(
            f"SELECT g, sum(n){totals} FROM (SELECT {group} AS g, cluster, count(*) AS n{inner} FROM {table} "
            f"WHERE {where} GROUP BY ALL) GROUP BY g ORDER BY g"
        )
        found = {}
        for value, candidates, *each in rows:
            row: dict[str, Any] = {"candidates": int(candidates)}
            for k, (name, hit) in enumerate(hits.items()):
                sums = Sums(*(int(one) for one in each[6 * k : 6 * k + 6]))
                row |= share(name, sums)
                if isinstance(hit, tuple):
                    row[f"{name}_among"] = sums.of
            found[value] = row
        return found


class Tables(Database):
    """The tables of one run."""

    def __init__(self, folder: Path, flags: Flags, labels: Mapping[tuple[str, str], bool] | None = None) -> None:
        """`labels` are what people say of (query_id, docid)."""
        super().__init__()
        self.flags = flags
        self.has_positives = (folder / POSITIVES).is_file()
        try:
            self.view(folder / DECISIONS, "decisions")
            if self.has_positives:
                self.view(folder / POSITIVES, "positives")
            self._note_trails()
            self.note_labels(labels or {})
            self._note_views()
        except BaseException:
            self.close()
            raise

    def _note_views(self) -> None:
        """The views `labelled` and `told`, rows with what people say of them, if they do; and `placed`: those of lists
        of two or more, with whether they stand in the first half.
        """
        for name, join in (("labelled", "JOIN"), ("told", "LEFT JOIN")):
            self.ask(
                f"CREATE VIEW {name} AS SELECT rows.*, labels.relevant FROM rows {join} labels "
                f"USING (query_id, docid) WHERE {JUDGED}"
            )
        self.ask(
            "CREATE VIEW placed AS SELECT rows.*, 2 * position <= size AS early FROM rows JOIN (SELECT line, query_id, "
            "max(position) AS size FROM decisions GROUP BY ALL HAVING size > 1) USING (line, query_id)"
        )

    def _note_trails(self) -> None:
        """The view `rows`: decisions with the cluster of their query, their band of places, and for each tier (by its
        number) whether it judged (`j0`), and whether it flagged (`f0`).
        """
        self._trails = {trail: read_trail(trail) for (trail,) in self.ask("SELECT DISTINCT trail FROM decisions")}
        tiers = range(len(self.flags.tiers))
        columns = "".join(f", j{n} BOOLEAN, f{n} BOOLEAN" for n in tiers)
        self.ask(f"CREATE TABLE trails (trail VARCHAR, number INTEGER, disputes INTEGER, waits BOOLEAN{columns})")
        self._by_number = [said for _, said in sorted(self._trails.items())]
        rows = []
        for number, (trail, said) in enumerate(sorted(self._trails.items())):
            flags = self.flags.of(said)
            told = [value for tier in self.flags.tiers for value in (tier in flags, flags.get(tier, False))]
            rows.append((trail, number, self.flags.disputes(said), _UNANSWERED in trail, *told))
        if rows:
            self.connection.executemany(f"INSERT INTO trails VALUES ({', '.join('?' * len(rows[0]))})", rows)
        cluster = self.cluster("decisions")
        self.ask(
            f"CREATE VIEW rows AS SELECT d.*, t.* EXCLUDE (trail), {cluster} AS cluster, {_band()} AS band "
            "FROM decisions d JOIN trails t USING (trail)"
        )
        if self.has_positives:
            self.ask(f"CREATE VIEW positive_rows AS SELECT *, {cluster} AS cluster FROM positives")

    def trails(self) -> list[Trail]:
        """All candidates, counted by subset, what was said of them and what was decided."""
        asked = "SELECT subset, trail, action, rule, count(*) FROM decisions GROUP BY ALL ORDER BY ALL"
        return [Trail(subset, self._trails[trail], *rest) for subset, trail, *rest in self.ask(asked)]

    def cut_points(self, column: str, parts: int) -> list[float]:
        """The values at which a column falls into parts of like size, each once."""
        shares = ", ".join(f"{n / parts}" for n in range(1, parts))
        (cuts,) = self.ask(f"SELECT quantile_disc({column}, [{shares}]) FROM decisions WHERE isfinite({column})")[0]
        return sorted(set(cuts or ()))

    def trails_by_cluster(self) -> list[tuple[Any, int, int]]:
        """Rows of (cluster, a trail's number, how many candidates took it)."""
        asked = "SELECT cluster, number, count(*) FROM rows GROUP BY ALL ORDER BY ALL"
        return [(cluster, number, count) for cluster, number, count in self.ask(asked)]

    def said(self, number: int) -> Mapping[str, str | None]:
        """What the tiers said along a trail, by its number in `rows`."""
        return self._by_number[number]


def share(name: str, sums: Sums) -> dict[str, Any]:
    """A count with its share and the share's 95 % interval."""
    low, high = share_interval(sums)
    return {
        name: sums.hits,
        f"{name}_share": round(sums.hits / sums.of, 6) if sums.of else None,
        f"{name}_95": [round(low, 6), round(high, 6)],
    }


def read_trail(trail: str) -> dict[str, str | None]:
    """What each tier said along a trail: its label, or None where it abstained; nothing of one that is not answered."""
    said: dict[str, str] = json.loads(trail)
    return {
        tier: None if label.startswith(ABSTAINED) else label
        for tier, label in said.items()
        if label != f"{ABSTAINED}{UNANSWERED}"
    }


def band_name(start: int) -> str:
    """The places that a band holds, by its first."""
    step = next((step for last, step in _BANDS if start <= last), 0)
    return f"{start}" if step == 1 else f"{start}-{start + step - 1}" if step else f"{start} and on"


def _band() -> str:
    cases, before = [], 0
    for last, step in _BANDS:
        first = before + 1
        cases.append(f"WHEN position <= {last} THEN {first} + (position - {first}) // {step} * {step}")
        before = last
    return f"CASE {' '.join(cases)} ELSE {before + 1} END"


def _literal(path: Path) -> str:
    """A path as DuckDB takes it: what means something in a pattern stands for itself."""
    return re.sub(r"[*?\[]", r"[\g<0>]", str(path))
