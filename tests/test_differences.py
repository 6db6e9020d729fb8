"""What two runs decide differently, with both sides' evidence; and which of them people side with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from relabel.differences import check_place, difference, write_difference
from relabel.errors import ConfigError, InputError, Unfinished
from relabel.export import export_run, report_run
from relabel.formats import open_sink, open_source
from relabel.loading import load_config
from relabel.records import Decision, Instance, Outcome
from relabel.runs import run
from relabel.testing import LabelledJudge, ReplyServer
from tests.conftest import SHARED, config, tevatron
from tests.planted import plant

QUERIES = 40


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Queries with five candidates, the first two of which hold the answer."""
    path = tmp_path / "train.jsonl"
    records = [tevatron(n, 5, subset="nq" if n % 2 else "fever") for n in range(QUERIES)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def relevant(source: Path) -> dict[tuple[str, str], bool]:
    records = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    return {
        (record["query_id"], passage["docid"]): place < 2
        for record in records
        for place, passage in enumerate(record["negative_passages"])
    }


def judged(source: Path, folder: Path, accuracy: float, **changes: Any) -> Path:
    """A run before a judge that is right so often."""
    grades: dict[str, dict[str, float]] = {}
    for line in source.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        texts = [one["text"] for one in record["negative_passages"]]
        grades[record["query"]] = {text: float(place < 2) for place, text in enumerate(texts)}
        grades[record["query"]] |= {one["text"]: 1.0 for one in record["positive_passages"]}
    with ReplyServer(LabelledJudge(grades, relevant=1, accuracy=accuracy)) as server:
        run(config(source, server.url, **changes), output=folder, say=lambda _: None)
    return folder


def test_a_run_does_not_differ_from_itself(source: Path, tmp_path: Path) -> None:
    folder = judged(source, tmp_path / "a", 1.0)
    found = difference(folder, folder)
    assert found["settings"] == []
    assert found["all"]["changed"] == 0
    assert found["agreement"]["kappa"] == 1.0
    assert (found["examples"], found["human"]) == ([], None)
    assert found["cost"]["usd"]["difference"] in (0, None)


def test_another_policy_is_named_and_counted(source: Path, tmp_path: Path) -> None:
    one = judged(source, tmp_path / "a", 1.0)
    export_run(one, policy="{drop: [worse, better]}", to=tmp_path / "b/")
    found = difference(one, tmp_path / "b")
    assert [row["setting"] for row in found["settings"] if row["setting"].startswith("policy")] == [
        *("policy.drop", "policy.max_false_negatives", "policy.relabel")
    ]
    assert found["candidates"] == {"both": 5 * QUERIES, "a_only": 0, "b_only": 0}
    assert found["moves"] == [[0, 2 * QUERIES, 0], [0, 0, 0], [0, 0, 3 * QUERIES]]
    assert found["all"]["changed"] == 2 * QUERIES == sum(row["changed"] for row in found["subsets"].values())
    assert len(found["examples"]) == 20
    example = found["examples"][0]
    assert (example["a"]["action"], example["b"]["action"], example["kind"]) == ("relabel", "drop", "relabel to drop")
    assert example["a"]["verdicts"][-1]["reply"]


def test_people_say_which_judge_is_better(source: Path, tmp_path: Path) -> None:
    good, bad = judged(source, tmp_path / "good", 0.95), judged(source, tmp_path / "bad", 0.6)
    human = difference(bad, good, relevant(source))["human"]
    found = human["found"]
    assert (found["candidates"], human["queries"]) == (5 * QUERIES, QUERIES)
    assert human["relabelled"]["difference"]["kappa"] == found["difference"]["kappa"]
    apart = found["difference"]["kappa"]
    assert apart["p"] < 0.01
    assert apart["difference_95"][0] > 0
    assert apart["difference"] == pytest.approx(found["b"]["kappa"] - found["a"]["kappa"], abs=2e-4)
    back = difference(good, bad, relevant(source))["human"]["found"]["difference"]["kappa"]
    assert back["difference"] == -apart["difference"]


def test_runs_over_two_sources_are_matched_by_their_ids(source: Path, tmp_path: Path) -> None:
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    other = tmp_path / "other.jsonl"
    other.write_text("".join(reversed(lines[5:])), encoding="utf-8")
    one, two = judged(source, tmp_path / "a", 1.0), judged(other, tmp_path / "b", 1.0)
    export_run(two, policy="{drop: [worse, better]}")
    found = difference(one, two)
    assert found["matched_by"] == "query_id and docid"
    assert found["candidates"] == {"both": 5 * (QUERIES - 5), "a_only": 25, "b_only": 0}
    assert found["all"]["changed"] == 2 * (QUERIES - 5)
    for example in found["examples"]:
        assert example["a"]["passage"]["text"] == example["b"]["passage"]["text"]


def test_a_passage_that_stands_twice_among_the_candidates_is_matched_once(tmp_path: Path) -> None:
    twice = tevatron(1, 2)
    twice["negative_passages"] *= 2
    for name, records in (("a", [twice, tevatron(2, 2), tevatron(3)]), ("b", [twice, tevatron(2, 2)])):
        source = tmp_path / f"{name}.jsonl"
        source.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        run(load_config("quickstart", [f"input.path={source}"]), output=tmp_path / name, say=lambda _: None)
    found = difference(tmp_path / "a", tmp_path / "b")
    assert found["candidates"] == {"both": 6, "a_only": 3, "b_only": 0}


def test_the_page_and_its_numbers_lie_side_by_side(source: Path, tmp_path: Path) -> None:
    one = judged(source, tmp_path / "a", 1.0)
    export_run(one, policy="{drop: [worse, better]}", to=tmp_path / "b/")
    found = difference(one, tmp_path / "b")
    write_difference(found, tmp_path / "pages" / "diff.html")
    kept = json.loads((tmp_path / "pages" / "diff.json").read_bytes())
    assert {name: kept[name] for name in found} == json.loads(json.dumps(found))
    assert "relabel to drop" in (tmp_path / "pages" / "diff.html").read_text(encoding="utf-8")


def test_a_folder_that_is_not_up_to_date_says_what_to_do(source: Path, tmp_path: Path) -> None:
    one = judged(source, tmp_path / "a", 1.0)
    shutil.copytree(one, tmp_path / "b")
    (tmp_path / "b" / "decisions.parquet").unlink()
    with pytest.raises(Unfinished, match="relabel run"):
        difference(one, tmp_path / "b")


def test_people_side_with_the_better_of_two_on_real_questions(tmp_path: Path) -> None:
    mediqa = SHARED / "labels" / "mediqa2019.jsonl.gz"
    if not mediqa.is_file():
        pytest.skip("the labelled answers of MEDIQA 2019 are not beside this checkout")
    planted = plant(mediqa, most=40)
    path = planted.write(tmp_path / "train.jsonl")
    for name, accuracy in (("good", 0.95), ("bad", 0.6)):
        with ReplyServer(planted.judge(accuracy=accuracy)) as server:
            run(config(path, server.url), output=tmp_path / name, say=lambda _: None)
    people = {
        (record["query_id"], one["docid"]): (record["query_id"], one["docid"]) in planted.planted
        for record in planted.records
        for one in record["negative_passages"]
    }
    apart = difference(tmp_path / "bad", tmp_path / "good", people)["human"]["found"]["difference"]
    assert apart["kappa"]["difference_95"][0] > 0


def test_people_tell_a_policy_that_relabels_from_one_that_drops(source: Path, tmp_path: Path) -> None:
    one = judged(source, tmp_path / "a", 1.0)
    export_run(one, policy="{drop: [worse, better]}", to=tmp_path / "b/")
    human = difference(one, tmp_path / "b", relevant(source))["human"]
    assert human["found"]["difference"]["kappa"]["difference"] == 0
    assert human["relabelled"]["a"]["recall"] == 1
    assert human["relabelled"]["b"]["recall"] == 0


def test_runs_without_a_candidate_in_common_are_refused_with_the_names_of_both(source: Path, tmp_path: Path) -> None:
    one = judged(source, tmp_path / "a", 1.0)
    flag = tmp_path / "flag.jsonl"
    sink = open_sink(flag, "flagembedding")
    for instance in open_source(str(source)):
        assert isinstance(instance, Instance)
        sink.write(Outcome(instance, "keep", "keep", tuple(Decision("keep", "", "") for _ in instance.negatives)))
    sink.close()
    run(load_config("quickstart", [f"input.path={flag}"]), output=tmp_path / "b", say=lambda _: None)
    with pytest.raises(InputError, match=r"no candidate is in both. One names query 'q0', docid 'q0-n1', the other"):
        difference(one, tmp_path / "b")


def test_another_order_of_the_tiers_is_a_difference(source: Path, tmp_path: Path) -> None:
    screens = [
        {"name": "exact", "judge": {"screen": "exact-duplicate"}, "escalate": {"labels": ["clear"]}},
        {"name": "near", "judge": {"screen": "near-duplicate"}, "escalate": {"labels": ["clear"]}},
        {"name": "lexical", "judge": {"screen": "lexical"}},
    ]
    for name, tiers in (("a", screens), ("b", [screens[1], screens[0], screens[2]])):
        run(config(source, cascade=tiers, policy={"drop": ["duplicate"]}), output=tmp_path / name, say=lambda _: None)
    settings = difference(tmp_path / "a", tmp_path / "b")["settings"]
    assert [row["setting"] for row in settings] == ["tiers"]


class TestWhereThePageGoes:
    def test_what_no_diff_wrote_is_not_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "package.json").write_text("{}")
        with pytest.raises(ConfigError, match=r"package\.json was not written by `relabel diff`"):
            check_place(tmp_path / "package.html")
        (tmp_path / "index.html").write_text("mine")
        with pytest.raises(ConfigError, match="is there already"):
            check_place(tmp_path / "index.html")
        with pytest.raises(ConfigError, match=r"ends in \.html"):
            check_place(tmp_path / "page.txt")

    def test_a_runs_report_is_not_replaced(self, source: Path, tmp_path: Path) -> None:
        folder = judged(source, tmp_path / "a", 1.0)
        with pytest.raises(ConfigError, match=r"report\.json was not written by `relabel diff`"):
            check_place(folder / "report.html")

    def test_an_earlier_diff_is(self, source: Path, tmp_path: Path) -> None:
        folder = judged(source, tmp_path / "a", 1.0)
        for _ in range(2):
            check_place(tmp_path / "diff.html")
            write_difference(difference(folder, folder), tmp_path / "diff.html")


def test_labels_that_the_runs_dispute_are_left_out_whatever_their_order(source: Path, tmp_path: Path) -> None:
    one, other = judged(source, tmp_path / "a", 0.9), judged(source, tmp_path / "b", 0.7)
    people = relevant(source)
    report_run(one, people)
    report_run(other, {name: not value if name[0] == "q1" else value for name, value in people.items()})
    found, back = difference(one, other), difference(other, one)
    assert found["disputed_labels"] == back["disputed_labels"] == 5
    assert found["human"]["found"]["candidates"] == 5 * (QUERIES - 1)
    assert found["human"]["found"]["a"] == back["human"]["found"]["b"]
