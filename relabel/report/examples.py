"""Examples that are shown in full: which candidates, and all that is known of each.

Of each kind half are those that tell most (people say otherwise, judges differ, or the verdict is least sure), half are
drawn at random; both are spread over the subsets, with one candidate of a query.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from relabel.records import Instance, Outcome, Passage, Reply, Verdict, Verdicts
from relabel.report.queries import FOUND, JUDGED, Tables

KINDS = ("relabel", "drop", "keep", "undecided", "suspect")
SHOWN = 20
_LONGEST = 3000
"""Letters of a passage or reply that are shown; what is more is counted."""

_POSITIVES = 3
"""Positives shown of an instance."""

_KIND = "CASE WHEN rule = 'undecided' THEN 'undecided' ELSE action END"
_DOUBT = (
    f"100 * coalesce((({FOUND}) <> relevant)::INTEGER, 0) + 8 * disputes "
    "+ CASE WHEN score BETWEEN 0 AND 1 THEN 1 - score ELSE 0 END"
)
_AT_RANDOM = "hash(line, position)"
_MOST_DOUBTFUL = f"({_DOUBT}) + hash(position, line) / 1e20"


@dataclass(frozen=True)
class Chosen:
    """A candidate, or a suspect positive, by its line and its 1-based place there."""

    kind: str
    subset: str
    line: int
    position: int
    query_id: str
    docid: str
    why: str


def choose(tables: Tables) -> list[Chosen]:
    """Up to SHOWN of each kind."""
    found = _best(tables, "told", _KIND, JUDGED, _MOST_DOUBTFUL, "doubtful")
    random = _best(tables, "rows", _KIND, JUDGED, _AT_RANDOM, "at random")
    if tables.has_positives:
        random += _best(tables, "positive_rows", "'suspect'", "suspect", _AT_RANDOM, "at random")
    return [
        one
        for kind in KINDS
        for one in pick([c for c in found if c.kind == kind], [c for c in random if c.kind == kind], SHOWN)
    ]


def _best(tables: Tables, table: str, kind: str, where: str, order: str, why: str) -> list[Chosen]:
    """The first of each kind and subset in this order: a few more than are needed, for some share a query."""
    names = ("line", "position", "query_id", "docid")
    packed = ", ".join(f"{name} := {name}" for name in names)
    rows = tables.ask(
        f"SELECT {kind} AS kind, subset, arg_max(struct_pack({packed}), {order}, {2 * SHOWN}) FROM {table} "
        f"WHERE {where} GROUP BY ALL ORDER BY ALL"
    )
    return [Chosen(kind, subset, **one, why=why) for kind, subset, several in rows for one in several]


def pick(telling: Sequence[Chosen], random: Sequence[Chosen], count: int) -> list[Chosen]:
    """By turns one that tells much and one at random, each by turns from the subsets, one of a query."""
    picked: dict[tuple[str, str], Chosen] = {}
    for pair in zip_longest(_by_turns(telling), _by_turns(random)):
        for one in pair:
            if one is not None and len(picked) < count:
                picked.setdefault((one.subset, one.query_id), one)
    return list(picked.values())


def _by_turns(chosen: Iterable[Chosen]) -> Iterator[Chosen]:
    subsets: defaultdict[str, list[Chosen]] = defaultdict(list)
    for one in chosen:
        subsets[one.subset].append(one)
    for round_ in zip_longest(*(subsets[name] for name in sorted(subsets))):
        yield from (one for one in round_ if one is not None)


def described(
    chosen: Sequence[Chosen],
    outcomes: Iterable[Outcome],
    reply: Callable[[str], Reply | None],
    people: Mapping[tuple[str, str], bool],
) -> list[dict[str, Any]]:
    """The examples with their texts, verdicts, replies and what people say, in this order; `outcomes` hold their
    instances.
    """
    wanted: defaultdict[int, list[Chosen]] = defaultdict(list)
    for one in chosen:
        wanted[one.line].append(one)
    found = {
        one: _described(one, outcome, reply) | {"people": people.get((one.query_id, one.docid))}
        for outcome in outcomes
        for one in wanted[outcome.instance.line]
        if is_of(one.query_id, outcome.instance.query_id)
    }
    return [found[one] for one in chosen if one in found]


def is_of(query_id: str, read: str) -> bool:
    """Whether an instance that was read without those before it is that of a row: then the number behind an id that
    relabel made may be another, or missing.
    """
    return _REPEAT.sub("", query_id) == _REPEAT.sub("", read)


_REPEAT = re.compile(r"(?<=^[0-9a-f]{32})-\d+$")


def _described(one: Chosen, outcome: Outcome, reply: Callable[[str], Reply | None]) -> dict[str, Any]:
    instance, place = outcome.instance, one.position - 1
    common = {"kind": one.kind, "why": one.why, **context(instance, one.query_id)}
    if one.kind == "suspect":
        verdicts = outcome.positives[place]
        return common | {
            "passage": shown(instance.positives[place], verdicts, one.docid),
            "position": one.position,
            "verdicts": said(verdicts, reply),
        }
    return common | judged(outcome, place, one.docid, reply)


def context(instance: Instance, query_id: str) -> dict[str, Any]:
    """Where a candidate stands: subset, query and the first positives."""
    positives = instance.positives[:_POSITIVES]
    return {
        "subset": instance.subset,
        "query_id": query_id,
        "query": _cut(instance.query),
        "line": instance.line,
        "positives": [shown(passage, (), passage.docid) for passage in positives],
        "more_positives": len(instance.positives) - len(positives),
    }


def judged(outcome: Outcome, place: int, docid: str, reply: Callable[[str], Reply | None]) -> dict[str, Any]:
    """A candidate with its decision and what is behind it."""
    decision = outcome.decisions[place]
    return {
        "passage": shown(outcome.instance.negatives[place], decision.verdicts, docid),
        "position": place + 1,
        "action": decision.action,
        "instance_action": outcome.action,
        "rule": decision.rule,
        "reason": decision.reason,
        "verdicts": said(decision.verdicts, reply),
    }


def shown(passage: Passage, verdicts: Verdicts, docid: str) -> dict[str, Any]:
    """A passage cut to what is shown, and where in that the last evidence stands: [start, end), or None."""
    evidence = next((one for one in reversed(verdicts) if one.evidence and one.offset is not None), None)
    at = evidence.offset if evidence is not None and evidence.offset is not None else 0
    start = max(at - _LONGEST // 4, 0) if at > _LONGEST // 2 else 0
    text = passage.text[start : start + _LONGEST]
    marked = None
    if evidence is not None and evidence.evidence:
        end = at - start + len(evidence.evidence)
        marked = [at - start, end] if end <= len(text) else None
    return {
        "docid": docid,
        "title": passage.title[:_LONGEST],
        "text": text,
        "before": start,
        "after": max(len(passage.text) - start - len(text), 0),
        "evidence": marked,
        "score": passage.score,
    }


def said(verdicts: Verdicts, reply: Callable[[str], Reply | None]) -> list[dict[str, Any]]:
    """Each tier's verdict, with the reply that it was read from."""
    return [_verdict(one, reply(one.key) if one.key and one.score_kind != "similarity" else None) for one in verdicts]


def _verdict(verdict: Verdict, reply: Reply | None) -> dict[str, Any]:
    return {
        "tier": verdict.tier,
        "judge": verdict.judge,
        "model": verdict.model,
        "label": verdict.label,
        "abstained": verdict.abstained,
        "score": None if verdict.score is None else round(verdict.score, 4),
        "score_kind": verdict.score_kind,
        "votes": dict(verdict.votes) if verdict.votes else None,
        "evidence": _cut(verdict.evidence) if verdict.evidence else None,
        "found": _cut(verdict.found) if verdict.found else None,
        "reply": _cut(reply.text) if reply and reply.text else None,
        "reasoning": _cut(reply.reasoning) if reply and reply.reasoning else None,
    }


def _cut(text: str) -> str:
    more = len(text) - _LONGEST
    return f"{text[:_LONGEST]} … ({more:,} letters more)" if more > 0 else text
