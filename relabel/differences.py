"""What differs between two runs, of another prompt, model or policy: the decisions, with both sides' evidence, how both
fare against what people say, and what each cost.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relabel.errors import ConfigError, InputError, Unfinished
from relabel.files import write_whole
from relabel.folder import Opened, judges_of, ledger_of, people_of, reopen, tables_up_to_date
from relabel.labels import Name
from relabel.ledger import Ledger
from relabel.records import Outcome, Reply
from relabel.report import read_report
from relabel.report.audit import outcomes, square
from relabel.report.examples import SHOWN, context, is_of, judged
from relabel.report.pages import html, read_json, write_json
from relabel.report.queries import NAMED, Database
from relabel.statistics import agreement, compared, measured
from relabel.tables import DECISIONS
from relabel.text import pasteable

ACTIONS = ("relabel", "drop", "keep")
_BY_PLACE = ("line", "query_id", "position")
_LABELLED = "(SELECT rows.*, labels.relevant FROM rows JOIN labels USING (query_id, docid))"
_BY_NAME = ("query_id", "docid", "nth")


@dataclass(frozen=True)
class Side:
    """One of the two runs, opened, with its report."""

    opened: Opened
    report: dict[str, Any]
    ledger: Ledger


@dataclass(frozen=True)
class Changed:
    """A candidate on which the runs decide differently: where it stands in each."""

    before: str
    after: str
    query_id: str
    docid: str
    places: tuple[tuple[int, int], tuple[int, int]]
    """(line, 1-based position) in A and in B."""


def difference(one: str | Path, other: str | Path, labels: Mapping[Name, bool] | None = None) -> dict[str, Any]:
    """What differs between the runs in two folders, A and B, as written to diff.json.

    `labels`, by (query_id, docid), go before what both runs know of people's; what these say differently is left out.

    Candidates are matched by their place if both read the same source, else by query_id and docid.
    Raises RelabelError for a folder that holds no run, or one that is not up to date, and for two without a candidate
    in common.
    """
    with ExitStack() as opening:
        sides = (_open(one, opening), _open(other, opening))
        one_says, other_says = (people_of(side.opened).labels for side in sides)
        disputed = {name for name, value in one_says.items() if other_says.get(name, value) != value}
        people = {**one_says, **other_says}
        people = {name: value for name, value in people.items() if name not in disputed} | dict(labels or {})
        with _Joined(sides, people) as tables:
            _check_common(tables, sides)
            found = {
                "runs": {name: _described(side) for name, side in zip("ab", sides, strict=True)},
                "settings": _settings(sides),
                **tables.counts(),
                "human": tables.human(),
                "disputed_labels": len(disputed - (labels or {}).keys()),
                "cost": _cost(sides),
            }
            found["examples"] = _examples(sides, tables.changed(), people)
    return found


def check_place(path: Path) -> None:
    """Refuse a page that would replace what no diff wrote. Raises ConfigError."""
    if path.suffix != ".html":
        raise ConfigError(f"--to {path}: expected a name that ends in .html")
    numbers = path.with_suffix(".json")
    if numbers.exists() and "moves" not in (read_json(numbers) or {}):
        raise ConfigError(
            f"--to {path}: {numbers} was not written by `relabel diff`, and would be lost; name another page"
        )
    if path.exists() and not numbers.exists():
        raise ConfigError(f"--to {path}: is there already, and was not written by `relabel diff`; name another page")


def write_difference(found: Mapping[str, Any], path: Path) -> None:
    """Write the page, and the same numbers as JSON beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, html("diff.html", diff=found).encode())
    write_json(path.with_suffix(".json"), found)


def _open(folder: str | Path, opening: ExitStack) -> Side:
    opened = reopen(folder)
    known = read_report(opened.folder)
    if known is None or not tables_up_to_date(opened, known):
        again = pasteable("relabel", "run", opened.folder)
        raise Unfinished(
            f"{opened.folder}: what is derived from it is not complete or not up to date; `{again}` first: it sends "
            "nothing if all is answered"
        )
    return Side(opened, known, opening.enter_context(ledger_of(opened.folder, opened.config)))


def _check_common(tables: _Joined, sides: Sequence[Side]) -> None:
    """Refuse two runs that have no candidate in common: nothing could be said of them."""
    if tables.ask("SELECT count(*) FROM pairs")[0][0]:
        return
    named = [tables.ask(f"SELECT query_id, docid FROM {name} LIMIT 1") for name in "ab"]
    words = [f"query {one[0][0]!r}, docid {one[0][1]!r}" if one else "no candidate" for one in named]
    raise InputError(
        f"{sides[0].opened.folder} and {sides[1].opened.folder}: no candidate is in both. One names {words[0]}, the "
        f"other {words[1]}. Compare runs over the same set, in a format that keeps its ids (a set without ids gets "
        "new ones, made from its texts)."
    )


def _described(side: Side) -> dict[str, Any]:
    names = ("candidates", "instances", "source", "policy")
    judges = judges_of(side.opened)
    return {"name": str(side.opened.folder), "judges": judges} | {name: side.report[name] for name in names}


def _settings(sides: Sequence[Side]) -> list[dict[str, str | None]]:
    """The settings that differ, as far as they are not the usual ones, each as text; a tier that only one side has is
    one line.
    """
    one, other = (_chosen(side) for side in sides)
    tiers = one["cascade"].keys() & other["cascade"].keys()
    flat = []
    for side in (one, other):
        judges = {
            name: tier if name in tiers else " ".join(filter(None, (tier["version"], tier["judge"].get("model"))))
            for name, tier in side["cascade"].items()
        }
        flat.append(_flat(side | {"cascade": judges, "tiers": list(judges)}))
    return [
        {"setting": key, "a": flat[0].get(key), "b": flat[1].get(key)}
        for key in sorted({**flat[0], **flat[1]})
        if flat[0].get(key) != flat[1].get(key)
    ]


def _chosen(side: Side) -> dict[str, Any]:
    names = {"input", "cascade", "criteria", "policy"}
    chosen = side.opened.config.model_dump(mode="json", include=names, exclude_defaults=True)
    chosen["cascade"] = {tier.pop("name"): tier for tier in chosen["cascade"]}
    for judge in judges_of(side.opened):
        chosen["cascade"][judge["tier"]]["version"] = judge["judge"]
    return chosen | {"source": side.report["source"]["sha256"]}


def _flat(value: Any, key: str = "") -> dict[str, str]:
    if isinstance(value, dict) and value:
        return {path: text for name, one in value.items() for path, text in _flat(one, f"{key}.{name}").items()}
    return {key.removeprefix("."): value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}


def _cost(sides: Sequence[Side]) -> dict[str, Any]:
    """What the replies behind each side's verdicts come to, and how much more B's do."""
    a, b = (side.report["cost"] for side in sides)
    rows = {
        name: {
            "a": a[name],
            "b": b[name],
            "difference": None if None in (a[name], b[name]) else round(b[name] - a[name], 6),
        }
        for name in ("usd", "usd_per_1000")
    }
    return {**rows, "tiers": {"a": a["tiers"], "b": b["tiers"]}}


class _Joined(Database):
    """The decisions of both runs, side by side: the view `rows`."""

    def __init__(self, sides: Sequence[Side], labels: Mapping[Name, bool]) -> None:
        super().__init__()
        try:
            self._join(sides)
            self.note_labels(labels)
        except BaseException:
            self.close()
            raise

    def _join(self, sides: Sequence[Side]) -> None:
        for name, side in zip("ab", sides, strict=True):
            self.view(side.opened.folder / DECISIONS, f"all_{name}")
        same = sides[0].report["source"]["sha256"] == sides[1].report["source"]["sha256"]
        self.by = _BY_PLACE if same else _BY_NAME
        nth = "row_number() OVER (PARTITION BY query_id, docid ORDER BY line, position)" if not same else "1"
        columns = ", ".join(f"{name} AS {name}" for name in ("subset", "query_id", "docid", "line", "position"))
        for name in "ab":
            self.ask(f"CREATE VIEW {name} AS SELECT {columns}, action, {NAMED} AS found, {nth} AS nth FROM all_{name}")
        matching = " AND ".join(f"a.{name} = b.{name}" for name in self.by)
        self.ask(
            "CREATE TABLE pairs AS SELECT a.subset, a.query_id, a.docid, a.line AS line_a, a.position AS position_a, "
            "b.line AS line_b, b.position AS position_b, a.action AS a, b.action AS b, a.found AS found_a, "
            f"b.found AS found_b FROM a JOIN b ON {matching}"
        )
        self.ask(f"CREATE VIEW rows AS SELECT *, {self.cluster('pairs')} AS cluster FROM pairs")

    def counts(self) -> dict[str, Any]:
        """How many are in both, and what became of them: of all, and by subset."""
        (matched,) = self.ask("SELECT count(*) FROM pairs")[0]
        alone = [self.ask(f"SELECT count(*) FROM {name}")[0][0] - matched for name in "ab"]
        changed = {"changed": "a <> b"}
        moved = self.ask("SELECT a, b, count(*) FROM rows GROUP BY ALL ORDER BY ALL")
        moves = {(a, b): count for a, b, count in moved}
        places = {action: place for place, action in enumerate(ACTIONS)}
        counted = self.ask("SELECT cluster, a, b, count(*) FROM rows GROUP BY ALL ORDER BY ALL")
        cells = {(cluster, places[a], places[b]): count for cluster, a, b, count in counted}
        return {
            "matched_by": "their place in the source" if self.by == _BY_PLACE else "query_id and docid",
            "candidates": {"both": matched, "a_only": alone[0], "b_only": alone[1]},
            "queries": self.queries,
            "all": self.shares("''", changed).get("", {"candidates": 0, "changed": 0}),
            "subsets": self.shares("subset", changed),
            "moves": [[moves.get((a, b), 0) for b in ACTIONS] for a in ACTIONS],
            "agreement": agreement(square(cells, len(ACTIONS))),
        }

    def human(self) -> dict[str, Any] | None:
        """Both against what people say, on the same candidates, and how much better B is: at finding false negatives,
        and at relabelling them. None without labels here.
        """
        (queries,) = self.ask(f"SELECT count(DISTINCT cluster) FROM {_LABELLED}")[0]
        if not queries:
            return None
        return {
            "queries": queries,
            "found": self._against_people("found_a", "found_b"),
            "relabelled": self._against_people("a = 'relabel'", "b = 'relabel'"),
        }

    def _against_people(self, *conditions: str) -> dict[str, Any]:
        one, other = (
            outcomes(
                self.ask(f"SELECT cluster, {condition}, relevant, count(*) FROM {_LABELLED} GROUP BY ALL ORDER BY ALL")
            )
            for condition in conditions
        )
        return {
            "candidates": int(one.sum()),
            "a": measured(one),
            "b": measured(other),
            "difference": compared(one, other),
        }

    def changed(self) -> list[Changed]:
        """Up to SHOWN candidates of each change, of different queries as far as there are such."""
        rows = self.ask(
            "SELECT a, b, query_id, docid, line_a, position_a, line_b, position_b FROM (SELECT *, row_number() OVER "
            "(PARTITION BY a, b ORDER BY turn, hash(query_id, docid)) AS place FROM (SELECT *, row_number() OVER "
            "(PARTITION BY a, b, subset, query_id ORDER BY position_a) AS turn FROM rows WHERE a <> b)) "
            f"WHERE place <= {SHOWN} ORDER BY a, b, place"
        )
        return [Changed(a, b, query, docid, ((la, pa), (lb, pb))) for a, b, query, docid, la, pa, lb, pb in rows]


def _examples(sides: Sequence[Side], changed: Sequence[Changed], people: Mapping[Name, bool]) -> list[dict[str, Any]]:
    """The changed candidates with their texts, what each side says of them, and what people do."""
    read = [_read(side, changed, number) for number, side in enumerate(sides)]
    return [
        {
            "kind": f"{one.before} to {one.after}",
            **read[0][one]["context"],
            **{name: read[number][one]["judged"] for number, name in enumerate("ab")},
            "people": people.get((one.query_id, one.docid)),
        }
        for one in changed
        if one in read[0] and one in read[1]
    ]


def _read(side: Side, changed: Sequence[Changed], number: int) -> dict[Changed, dict[str, Any]]:
    wanted: defaultdict[int, list[Changed]] = defaultdict(list)
    for one in changed:
        wanted[one.places[number][0]].append(one)
    found: dict[Changed, dict[str, Any]] = {}
    for outcome in side.opened.outcomes_at(set(wanted), side.ledger):
        for one in wanted[outcome.instance.line]:
            if is_of(one.query_id, outcome.instance.query_id):
                found[one] = _one_side(outcome, one, number, side.ledger.get)
    return found


def _one_side(outcome: Outcome, one: Changed, number: int, reply: Callable[[str], Reply | None]) -> dict[str, Any]:
    place = one.places[number][1] - 1
    return {
        "context": context(outcome.instance, one.query_id),
        "judged": judged(outcome, place, one.docid, reply),
    }
