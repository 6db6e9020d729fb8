"""What the audit says equals what is counted by hand."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from relabel.errors import InputError
from relabel.export import report_run
from relabel.loading import load_config
from relabel.report.audit import audit
from relabel.report.facts import flags_of
from relabel.report.queries import Tables, band_name
from relabel.runs import run
from relabel.testing import ReplyServer
from tests.replay import Recorded
from tests.report.shared import FACTS, FOUND, LABELS, Said, outcome, written

LABEL = st.sampled_from([*LABELS, None])
SAID = st.one_of(st.just(()), st.tuples(LABEL), st.tuples(LABEL, LABEL))
RUNS = st.lists(st.tuples(st.sampled_from(["nq", "fever", ""]), st.lists(SAID, max_size=25)), min_size=1, max_size=12)


def audited(folder: Path, outcomes: list[Any], labels: dict[tuple[str, str], bool] | None = None) -> dict[str, Any]:
    counts = written(folder, outcomes)
    with Tables(folder, flags_of(FACTS), labels) as tables:
        return audit(tables, FACTS, counts)


def found(said: Said) -> bool:
    return bool(said) and said[-1] in FOUND


@settings(max_examples=40, deadline=None)
@given(RUNS)
def test_every_count_is_that_of_a_loop_over_the_candidates(instances: list[tuple[str, list[Said]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        result = audited(Path(folder), [outcome(n, said, subset) for n, (subset, said) in enumerate(instances, 1)])
    every = [(subset, place, one) for subset, said in instances for place, one in enumerate(said, 1) if one]
    assert result["changes"]["all"]["candidates"] == len(every)
    for subset, row in result["changes"]["subsets"].items():
        own = [one for name, _, one in every if name == subset]
        assert row["candidates"] == len(own)
        if own:
            assert row["false_negatives"] == row["relabel"] == sum(map(found, own))
            assert row["undecided"] == sum(one[-1] is None for one in own)
        decided = [one for one in own if one[-1] is not None]
        assert row["false_negatives_among"] == len(decided)
        if decided:
            low, high = row["false_negatives_95"]
            assert low <= row["false_negatives_share"] <= high
            assert row["false_negatives_share"] == pytest.approx(sum(map(found, own)) / len(decided), abs=1e-6)
    places = Counter(place if place <= 20 else 21 for _, place, _ in every)
    assert {row["positions"]: row["candidates"] for row in result["by_position"]} == {
        band_name(place): count for place, count in places.items()
    }
    halves: dict[str, list[Said]] = {"first": [], "second": []}
    for _, said in instances:
        for place, one in enumerate(said, 1):
            halves["first" if 2 * place <= len(said) else "second"] += [one] if one and len(said) > 1 else []
    for name, row in result["by_half"].items():
        assert row["candidates"] == len(halves[name])
        for n, tier in enumerate(FACTS):
            there = [one[n] for one in halves[name] if len(one) > n and one[n] is not None]
            flagged = row["tiers"].get(tier.name, {"candidates": 0, "flagged": 0})
            assert (flagged["candidates"], flagged["flagged"]) == (len(there), sum(one in FOUND for one in there))
    for n, tier in enumerate(result["funnel"]):
        judged = [one for _, _, one in every if len(one) > n]
        assert tier["candidates"] == len(judged) == sum(tier["labels"].values()) + tier["abstained"]
        assert tier["passed_on"] == sum(len(one) > n + 1 for one in judged)
        assert tier["candidates"] == tier["passed_on"] + sum(tier["ended"].values())
        assert tier["flagged"] == sum(one[n] in FOUND for one in judged)
    check_agreement(result["agreement"], [one for _, _, one in every if len(one) == 2])


def check_agreement(pairs: list[dict[str, Any]], both: list[Said]) -> None:
    """The one pair of tiers against what both said."""
    if not both:
        assert pairs == []
        return
    (pair,) = pairs
    opinions = [one for one in both if None not in one]
    assert pair["asked"] == len(both) == sum(map(sum, pair["confusion"]))
    assert pair["candidates"] == len(opinions)
    cheap, strong = ([one[n] for one in opinions] for n in (0, 1))
    if len(set(cheap)) > 1 and len(set(strong)) > 1:
        assert pair["kappa"] == pytest.approx(cohen_kappa_score(cheap, strong), abs=1e-4)
    else:
        assert pair["kappa"] is None
    if opinions:
        assert pair["agreed"] == pytest.approx(sum(a == b for a, b in opinions) / len(opinions), abs=1e-4)
    flagged = [one for one in opinions if one[0] in FOUND]
    if pair["upheld"]:
        assert pair["upheld"]["candidates"] == len(flagged)
        assert pair["upheld"]["upheld"] == sum(one[1] in FOUND for one in flagged)


def test_a_query_that_stands_in_many_instances_is_one_draw(tmp_path: Path) -> None:
    said: list[Said] = [("worse",), ("irrelevant",)]
    apart = audited(tmp_path / "a", [outcome(n, said[: 1 + n % 2]) for n in range(1, 61)])
    alike = audited(tmp_path / "b", [outcome(n, said[: 1 + n % 2], query_id=f"q{n % 3}") for n in range(1, 61)])
    widths = []
    for result in (apart, alike):
        low, high = result["by_position"][1]["false_negatives_95"]
        widths.append(high - low)
    assert widths[1] > 3 * widths[0]


def test_more_queries_than_clusters_are_bundled_and_say_the_same(tmp_path: Path) -> None:
    outcomes = [outcome(n, [("better" if n % 10 == 0 else "irrelevant",)] * (1 + n % 3)) for n in range(5000)]
    row = audited(tmp_path, outcomes)["changes"]["all"]
    share, (low, high) = row["false_negatives_share"], row["false_negatives_95"]
    assert share == pytest.approx(0.1, abs=0.005)
    effective = share * (1 - share) * (1.96 / ((high - low) / 2)) ** 2
    assert 5000 * 0.6 < effective < 5000 * 1.5


def test_scores_of_the_mining_are_parted_into_ten(tmp_path: Path) -> None:
    rows = audited(tmp_path, [outcome(n, [("irrelevant",)] * 18 + [("worse",)] * 2) for n in range(50)])["by_score"]
    assert sum(row["candidates"] for row in rows) == 1000
    assert [row["false_negatives"] for row in rows] == [0] * 9 + [100]
    assert (rows[0]["from"], rows[-1]["to"]) == (1.0, 20.0)


def test_people_are_compared_with_the_decisions_and_with_each_tier(tmp_path: Path) -> None:
    outcomes = [outcome(n, [("worse", "better"), ("worse", "irrelevant"), ("irrelevant",)]) for n in range(20)]
    people = {(f"q{n}", f"d{n}-{k}"): k == 1 for n in range(20) for k in (1, 2, 3)}
    human = audited(tmp_path, outcomes, people | {("q1", "nowhere"): True})["human"]
    assert (human["decisions"]["candidates"], human["decisions"]["kappa"], human["queries"]) == (60, 1.0, 20)
    assert human["tiers"]["cheap"]["precision"] == 0.5
    assert human["tiers"]["strong"] | {"precision": 1.0, "candidates": 40} == human["tiers"]["strong"]
    assert human["actions"]["relabel"] | {"candidates": 20, "relevant": 20} == human["actions"]["relabel"]
    assert human["actions"]["keep"]["relevant"] == 0
    assert human["subsets"]["nq"]["relevant_share"] == 1.0
    assert (human["labels"], human["matched"]) == (61, 60)
    assert audited(tmp_path / "none", outcomes)["human"] is None


def test_labels_of_nothing_here_say_what_things_are_called(tmp_path: Path) -> None:
    human = audited(tmp_path, [outcome(1, [("worse",)])], {("other", "names"): True})["human"]
    assert human["matched"] == 0
    assert human["example"] == {"label": "other, names", "candidate": "q1, d1-1"}


def test_an_id_that_was_made_for_the_same_query_once_more_is_the_same_query(tmp_path: Path) -> None:
    made = "0123456789abcdef" * 2
    names = [made, f"{made}-2", f"{made}-3", "q-1", "q-2"]
    outcomes = [outcome(n, [("worse",)], query_id=name) for n, name in enumerate(names, 1)]
    assert audited(tmp_path, outcomes)["changes"]["queries"] == 3


def test_what_is_left_in_the_cleaned_set_is_counted_apart(tmp_path: Path) -> None:
    kept = [outcome(1, [("better",), ("irrelevant",)]), outcome(2, [("better",)])]
    removed = replace(outcome(3, [("better",), ("irrelevant",)]), action="remove", rule="too-many-false-negatives")
    result = audited(tmp_path, [*kept, removed])
    assert result["changes"]["all"]["relabel"] == 3
    assert result["cleaned"] == {"instances": 2, "new_positives": 2, "dropped": 0, "negatives": 1, "emptied": 1}


def test_a_table_that_is_damaged_is_said_to_be_so(tmp_path: Path) -> None:
    written(tmp_path, [outcome(1, [("worse",)])])
    path = tmp_path / "decisions.parquet"
    content = bytearray(path.read_bytes())
    content[4:400] = bytes(396)
    path.write_bytes(content)
    with (
        pytest.raises(InputError, match=r"decisions\.parquet: cannot be read"),
        Tables(tmp_path, flags_of(FACTS)) as tables,
    ):
        tables.trails()


def test_a_folder_may_be_named_like_a_pattern(tmp_path: Path) -> None:
    place = tmp_path / "run[1]*?=x" / "a=b"
    assert audited(place, [outcome(1, [("worse",)])])["changes"]["all"]["relabel"] == 1


class TestTheRecordedRunOfRLHN:
    @pytest.fixture
    def report(self, fiqa: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        recorded = Recorded(fiqa)
        with ReplyServer(recorded) as server:
            monkeypatch.setenv("OPENAI_BASE_URL", server.url)
            monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
            loaded = load_config("rlhn", [f"input.path={recorded.source}"])
            run(loaded, output=tmp_path / "run", say=lambda _: None)
        return report_run(tmp_path / "run")

    def test_says_what_the_recorded_replies_say(self, report: dict[str, Any], fiqa: Path) -> None:
        cheap, strong = by_hand(fiqa)
        assert report["changes"]["all"]["false_negatives"] == 23
        assert report["changes"]["all"]["touched"] == 10
        names = [("cheap", cheap), ("strong", strong)]
        for tier, (name, said) in zip(report["funnel"], names, strict=True):
            assert tier["tier"] == name
            assert tier["labels"] == Counter(said.values())
        assert report["funnel"][0]["passed_on"] == len(strong) == 255
        (pair,) = report["agreement"]
        counted = Counter((cheap[place], strong[place]) for place in strong)
        for row, label in zip(pair["confusion"], pair["rows"], strict=True):
            assert row == [counted[label, other] for other in pair["columns"]]
        one, other = zip(*((cheap[place], strong[place]) for place in strong), strict=True)
        assert pair["kappa"] == pytest.approx(cohen_kappa_score(one, other), abs=1e-4)
        flagged = [place for place in strong if cheap[place] in FOUND]
        upheld = sum(strong[place] in FOUND for place in flagged)
        assert (pair["upheld"]["candidates"], pair["upheld"]["upheld"]) == (len(flagged), upheld)
        for row in report["by_position"]:
            there = [said for (_, place), said in strong.items() if str(place) == row["positions"]]
            assert row["false_negatives"] == sum(said in FOUND for said in there)

    def test_counts_what_it_cost(self, report: dict[str, Any]) -> None:
        cheap, strong = report["cost"]["tiers"]
        assert (cheap["calls"], strong["calls"]) == (25, 17)
        expected = (strong["prompt_tokens"] * 2.5 + strong["completion_tokens"] * 10) / 1e6
        assert strong["usd"] == pytest.approx(expected, abs=1e-6)
        only = report["cost"]["strong_only"]
        assert (only["tier"], only["calls"]) == ("strong", 25)
        assert only["usd"] == pytest.approx(expected * 375 / 255, rel=1e-5)


def by_hand(folder: Path) -> tuple[dict[tuple[str, int], str], dict[tuple[str, int], str]]:
    """What each recorded reply says of each candidate, by query and place: read without any code of relabel's."""
    found: tuple[dict[tuple[str, int], str], dict[tuple[str, int], str]] = ({}, {})
    for line in (folder / "replies.jsonl").read_text(encoding="utf-8").splitlines():
        reply = json.loads(line)
        said = found[reply["stage"] - 1]
        verdict = reply["text"].split("<verdict>")[1]
        for place in range(1, len(reply["negative_docids"]) + 1):
            said[reply["query_id"], place] = "irrelevant"
        for label in ("better", "worse"):
            block = verdict.split(f"<{label}>")[1].split(f"</{label}>")[0]
            for part in block.split("Doc (")[1:]:
                said[reply["query_id"], int(part.split(")")[0])] = label
    return found
