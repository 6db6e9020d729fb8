"""What the tests of all formats share: reading, deciding at random, writing, and what must come of it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from relabel.config import PolicySettings
from relabel.formats import Source, open_sink, open_source
from relabel.policy import decide
from relabel.records import Action, Decision, Instance, Outcome, Passage, Quarantined, Verdict
from tests.conftest import case

Sides = tuple[str, list[str], list[str]]
Label = Callable[[], str]

POLICY = PolicySettings(relabel=["relabel"], drop=["drop"], remove=["remove"])
WORDS = st.text(min_size=1, max_size=10).filter(str.strip)
ACTIONS = st.sampled_from(["relabel", "drop", "keep"])
on_disk = settings(deadline=None, max_examples=60)


def line(record: Any) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"


def write(path: Path, *lines: bytes) -> Path:
    path.write_bytes(b"".join(lines))
    return path


def instances(source: Source) -> list[Instance]:
    """All of the source, none of which is refused."""
    found = []
    for record in source:
        assert isinstance(record, Instance), record
        found.append(record)
    return found


def refused(source: Source) -> list[Quarantined]:
    return [record for record in source if isinstance(record, Quarantined)]


def sides(instance: Instance) -> Sides:
    return instance.query, [p.text for p in instance.positives], [p.text for p in instance.negatives]


def as_sets(found: Iterable[Sides]) -> list[tuple[str, list[str], list[str]]]:
    return [(query, sorted(positives), sorted(negatives)) for query, positives, negatives in found]


def acted(instance: Instance, *actions: Action) -> Outcome:
    """The instance with these actions, one a candidate; what is left out is kept."""
    rest: list[Action] = ["keep"] * (len(instance.negatives) - len(actions))
    return Outcome(instance, "keep", "keep", tuple(Decision(action, "test", "") for action in (*actions, *rest)))


def rewritten(path: Path, to: Path, *actions: Action, format: str = "auto") -> Source:
    """The set at `path` with these actions on its first instance, written to `to` and opened again."""
    source = open_source(str(path), format=format)
    sink = source.sink(to)
    for number, instance in enumerate(instances(source)):
        sink.write(acted(instance, *(actions if number == 0 else ())))
    sink.close()
    return open_source(str(to), format=format)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(found) for found in path.read_bytes().splitlines()]


def decided(source: Source, label: Label) -> list[Outcome]:
    """Each instance with a label for each of its candidates, decided by the policy."""
    outcomes = []
    for instance in instances(source):
        verdicts = [(Verdict("tier", "judge", None, label()),) for _ in instance.negatives]
        outcomes.append(decide(POLICY, case(instance, verdicts), source.needs_negatives))
    return outcomes


def wanted(outcome: Outcome) -> Sides:
    """What must be left of an instance."""
    query, positives, negatives = sides(outcome.instance)
    moved = [negatives[place] for place in outcome.places("relabel")]
    return query, positives + moved, [negatives[place] for place in outcome.places("keep")]


def check_round_trip(source: Source, label: Label, to: Path, format: str, *, ordered: bool) -> None:
    """Decide at random, write, read again: positives are the old and the relabelled, negatives those kept."""
    outcomes = decided(source, label)
    sink = source.sink(to)
    for outcome in outcomes:
        sink.write(outcome)
    sink.close()
    left = [wanted(outcome) for outcome in outcomes if outcome.action == "keep"]
    found = [sides(instance) for instance in instances(open_source(str(to), format=format))] if left else []
    assert (found == left) if ordered else (as_sets(found) == as_sets(left))
    for _, positives, _ in found:
        assert len(set(positives)) == len(positives)


@st.composite
def composed(draw: st.DrawFn, fewest_negatives: int = 0) -> list[Instance]:
    """Instances with unlike queries; within each, all texts are unlike."""
    made = []
    for number, query in enumerate(draw(st.lists(WORDS, min_size=1, max_size=4, unique=True))):
        pool = draw(st.lists(WORDS, min_size=1 + fewest_negatives, max_size=7, unique=True))
        positives = draw(st.integers(1, len(pool) - fewest_negatives))
        passages = tuple(Passage(f"d{place}", "", text) for place, text in enumerate(pool))
        made.append(Instance(number + 1, f"q{number}", query, passages[:positives], passages[positives:]))
    return made


def compose(path: Path, format: str, made: Sequence[Instance]) -> Path:
    """The instances written in a format, whatever they came from."""
    sink = open_sink(path, format)
    for instance in made:
        sink.write(acted(instance))
    sink.close()
    return path


def check_composed(made: Sequence[Instance], data: st.DataObject, format: str, *, ordered: bool = True) -> None:
    """Compose, read back, and go through a round trip."""
    with tempfile.TemporaryDirectory() as folder:
        source = open_source(str(compose(Path(folder) / "made.jsonl", format, made)), format=format)
        assert [sides(found) for found in instances(source)] == [sides(instance) for instance in made]
        check_round_trip(source, lambda: data.draw(ACTIONS), Path(folder) / "out", format, ordered=ordered)
