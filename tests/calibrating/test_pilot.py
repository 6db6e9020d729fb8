"""From a pilot with labels to a calibrated run, over a real HTTP server and through the real command line."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

pytest.importorskip("sklearn", reason="needs the extra `calibrate`")

from relabel.calibrating.files import calibrated, gather
from relabel.errors import ConfigError, InputError, Unfinished
from relabel.estimate import estimate
from relabel.export import export_run
from relabel.folder import open_run, recorded_config
from relabel.loading import load_config
from relabel.runs import run
from relabel.testing import LabelledJudge, ReplyServer
from tests.test_calibration import calibration
from tests.test_cli import relabel

ALL = "cascade.snippet.escalate.labels=[answer, no_answer, abstained]"
QUERIES, EACH = 30, 8


@pytest.fixture
def server() -> Iterator[ReplyServer]:
    """A cheap judge that is right 7 times in 10, and a strong one that is right 9 times."""
    cheap, strong = (
        LabelledJudge(grades(), relevant=1, accuracy=accuracy, seed=seed) for seed, accuracy in enumerate((0.7, 0.9))
    )
    with ReplyServer(lambda body: (cheap if "mini" in body["model"] else strong)(body)) as running:
        yield running


def text(query: int, place: int) -> str:
    return f"Passage {place} tells of topic {query}, at length and in words of its own."


def relevant(query: int, place: int) -> bool:
    return place == 0 or random.Random(f"{query} {place}").random() < 0.35


def grades() -> dict[str, dict[str, float]]:
    return {
        f"what of topic {query}?": {text(query, place): float(relevant(query, place)) for place in range(EACH + 1)}
        for query in range(QUERIES)
    }


def write(folder: Path, name: str, subset: str = "made") -> Path:
    records = [
        {
            "query_id": f"q{query}",
            "query": f"what of topic {query}?",
            "subset": subset,
            "positive_passages": [{"docid": "p", "title": "", "text": text(query, 0)}],
            "negative_passages": [{"docid": f"d{n}", "title": "", "text": text(query, n)} for n in range(1, EACH + 1)],
        }
        for query in range(QUERIES)
    ]
    return written(folder / name, records)


def labels(folder: Path, least: int = 1, most: int = EACH) -> Path:
    rows = [
        {"query_id": f"q{query}", "docid": f"d{n}", "grade": 3 * relevant(query, n)}
        for query in range(QUERIES)
        for n in range(least, most + 1)
    ]
    return written(folder / "labels.jsonl", rows)


def written(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pilot(folder: Path, server: ReplyServer, *overrides: str) -> Path:
    source = write(folder, "pilot.jsonl")
    given = [f"input.path={source}", f"clients.openai.base_url={server.url}", *overrides]
    run("answer-cascade", overrides=given, output=folder / "pilot", say=lambda _: None)
    return folder / "pilot"


def decisions(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(folder / "decisions.parquet").to_pylist()
    return rows


def test_a_pilot_makes_a_config_that_asks_the_strong_judge_less(server: ReplyServer, tmp_path: Path) -> None:
    folder = pilot(tmp_path, server, ALL)
    arguments = ("calibrate", str(folder), "--labels", str(labels(tmp_path)), "--relevant", "2", "--strong", "versus")
    done = relabel(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "fitted on   240 labelled pairs of 30 queries" in done.stdout
    assert "<- chosen" in done.stdout
    before = server.asked.total()
    again = relabel("run", "calibration.yaml", "--output", "calibrated", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    rows = decisions(tmp_path / "calibrated")
    escalated = [row for row in rows if row["tier"] != "doubt"]
    assert 0.2 < len(escalated) / len(rows) < 0.4
    assert {row["label"] for row in rows if row["tier"] != "versus"} == {"false-negative", "true-negative"}
    assert all(row["reason"].startswith("settled says") for row in rows if "suspect_positive" in row["verdicts"])
    assert all(row["score_kind"] == "probability" for row in rows if row["tier"] == "doubt")
    assert server.asked.total() - before < 1.5 * len(rows)
    third = relabel("run", "calibration.yaml", "--output", "calibrated", cwd=tmp_path)
    assert "unchanged, nothing to do" in third.stdout
    assert relabel("verify", "calibrated", cwd=tmp_path).returncode == 0


def test_a_calibrated_run_reports_what_it_was_not_fitted_on(server: ReplyServer, tmp_path: Path) -> None:
    config = calibrated_config(tmp_path, server)
    other = write(tmp_path, "other.jsonl", subset="other")
    found = run(config, overrides=[f"input.path={other}"], output=tmp_path / "run", say=lambda _: None).report
    assert found is not None
    (used,) = found["calibrations"]
    assert used["tier"] == "doubt"
    assert used["unfitted_subsets"] == {"other": QUERIES * EACH}
    assert used["unfitted_judges"] == {}
    assert used["measured"]["reliability"]
    assert len(used["measured"]["frontier"]) == 21
    assert "Not fitted on" in (tmp_path / "run" / "report.html").read_text()
    overrides = [f"input.path={other}", "cascade.snippet.judge.model=gpt-4o-mini-2"]
    second = run(config, overrides=overrides, output=tmp_path / "second", say=lambda _: None).report
    assert second is not None
    assert list(second["calibrations"][0]["unfitted_judges"]) == ["snippet"]


def test_a_calibration_that_has_changed_is_no_longer_that_of_the_run(server: ReplyServer, tmp_path: Path) -> None:
    config = calibrated_config(tmp_path, server)
    overrides = [f"input.path={tmp_path / 'pilot.jsonl'}"]
    first = run(config, overrides=overrides, output=tmp_path / "run", say=lambda _: None)
    path = tmp_path / "calibration.json"
    path.write_text(path.read_text().replace('"strong": "versus"', '"strong": "versus" '))
    with pytest.raises(InputError, match="has changed since the run"):
        export_run(tmp_path / "run")
    again = run(config, overrides=overrides, output=tmp_path / "run", say=lambda _: None)
    assert not again.unchanged
    assert first.report is not None
    assert again.report is not None
    assert again.progress.replied == 0
    assert again.report["candidates"] == first.report["candidates"]


def calibrated_config(folder: Path, server: ReplyServer) -> Path:
    source = pilot(folder, server, ALL)
    command = ("calibrate", str(source), "--labels", str(labels(folder)), "--relevant", "2", "--strong", "versus")
    assert relabel(*command, cwd=folder).returncode == 0
    return folder / "calibration.yaml"


def test_a_pilot_that_escalated_a_selection_is_refused_with_the_command_that_mends_it(
    server: ReplyServer, tmp_path: Path
) -> None:
    folder = pilot(tmp_path, server)
    with pytest.raises(
        ConfigError, match=r"never shown to versus.*cascade\.snippet\.escalate\.labels=\[no_answer, answer"
    ):
        gather([str(folder)], str(labels(tmp_path)), 2, "versus", ())


def test_labels_that_belong_to_no_candidate_are_counted(server: ReplyServer, tmp_path: Path) -> None:
    folder = pilot(tmp_path, server, ALL)
    found = gather([str(folder)], str(labels(tmp_path, most=EACH + 1)), 2, "versus", ())
    assert found.notes == [f"{QUERIES} of {QUERIES * (EACH + 1)} labelled pairs are no candidates of this run"]
    assert len(found.pairs) == QUERIES * EACH
    assert found.usd is not None


@pytest.mark.parametrize(
    ("strong", "found", "says"),
    [
        ("judge", (), r"--strong judge: .* has no such tier after its first; expected closeness, snippet, versus"),
        ("copies", (), "--strong copies"),
        ("versus", ("best",), "--found: best; say which labels of versus mean relevant: "),
        ("snippet", (), "--found: none in the policy; say which labels of snippet mean relevant"),
    ],
)
def test_a_tier_or_label_that_is_not_there_is_refused(
    strong: str, found: tuple[str, ...], says: str, server: ReplyServer, tmp_path: Path
) -> None:
    folder = pilot(tmp_path, server, ALL)
    with pytest.raises(ConfigError, match=says):
        gather([str(folder)], str(labels(tmp_path)), 2, strong, found)


def test_a_pilot_that_is_not_finished_says_how_it_goes_on(server: ReplyServer, tmp_path: Path) -> None:
    folder = pilot(tmp_path, server, ALL, "budget.requests=100")
    with pytest.raises(Unfinished, match="wait for replies; `relabel run"):
        gather([str(folder)], str(labels(tmp_path)), 2, "versus", ())


def test_the_combined_part_stands_after_the_strong_tier(server: ReplyServer, tmp_path: Path) -> None:
    folder = pilot(tmp_path, server, ALL)
    config, _ = recorded_config(folder)
    combined = calibration(strong="versus", combined=calibration().cheap)
    tiers = calibrated(config, combined, tmp_path / "calibration.json")["cascade"]
    assert [tier["name"] for tier in tiers] == ["copies", "closeness", "snippet", "doubt", "versus", "combined"]
    alone = calibrated(config, calibration(strong="versus"), tmp_path / "calibration.json")["cascade"]
    assert alone[4]["escalate"] == {"labels": ["abstained"]}
    assert alone[5] == {"name": "settled", "judge": {**tiers[3]["judge"], "part": "alone"}}
    assert tiers[4]["escalate"] == {"labels": ["irrelevant", "worse", "equal", "better", "abstained"]}
    assert tiers[5]["judge"]["part"] == "combined"


@pytest.fixture
def bad(tmp_path: Path) -> Callable[..., str]:
    """What the command says of bad input; it exits with 2."""

    def say(*arguments: str) -> str:
        done = relabel("calibrate", *arguments, cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        return done.stderr

    return say


def test_bad_input_is_said_in_one_message(bad: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "labels.jsonl").write_text('{"query_id": "q", "docid": "d", "grade": 1}\n')
    (tmp_path / "table.jsonl").write_text('{"query_id": "q", "docid": "d", "tier": "t", "judge": "j", "label": "1"}\n')
    options = ("--labels", "labels.jsonl", "--relevant", "1", "--strong", "t")
    assert "nowhere: no such file or folder; expected a file of JSON Lines or Parquet" in bad("nowhere", *options)
    assert "none: no such file" in bad("table.jsonl", "--labels", "none", *options[2:])
    assert ".: not a run's folder" in bad(".", *options)
    assert "found 1 relevant and 0 other labelled pairs of 1 queries; a fit needs 10" in bad("table.jsonl", *options)
    assert "--share and --usd: name one" in bad("table.jsonl", *options, "--share", "0.1", "--usd", "1")
    assert not (tmp_path / "calibration.json").exists()
    assert "expected a file that ends in .json" in bad("table.jsonl", *options, "--to", "labels.jsonl")
    (tmp_path / "mine.json").write_text("{}")
    assert "mine.json exists, and `relabel calibrate` did not" in bad("table.jsonl", *options, "--to", "mine.json")
    (tmp_path / "config.yaml").write_text("run: {}")
    assert "lies in the folder of a run" in bad("table.jsonl", *options)


def test_an_estimate_knows_what_share_the_calibration_lets_through(server: ReplyServer, tmp_path: Path) -> None:
    config = load_config(calibrated_config(tmp_path, server), [f"input.path={tmp_path / 'pilot.jsonl'}"])
    snippet, versus = estimate(open_run(config), None)
    assert snippet.calls == QUERIES * (EACH + 1)
    assert versus.calls == pytest.approx(0.3 * QUERIES * EACH, abs=24)
    assert versus.basis.endswith("% of the candidates, as its calibration was told")
