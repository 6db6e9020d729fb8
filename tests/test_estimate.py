"""What a run will take is said before anything is spent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from relabel.config import Config
from relabel.estimate import TierEstimate, estimate
from relabel.folder import open_run, with_options
from relabel.forms import FORMS
from relabel.ledger import Ledger
from relabel.loading import load_config
from relabel.runs import run
from relabel.testing import ReplyServer, rlhn_reply
from tests.conftest import config, tevatron
from tests.test_run import finds_the_first, quiet

PRICES = {"small": {"prompt": 1.0, "completion": 2.0}, "large": {"prompt": 10.0, "completion": 20.0}}


def estimated(settings: Config, folder: Path) -> list[TierEstimate]:
    opened = open_run(with_options(settings, None, folder))
    if not folder.exists():
        return estimate(opened, None)
    with Ledger(folder) as ledger:
        return estimate(opened, ledger)


def test_without_a_ledger_everything_is_taken_to_escalate(write_jsonl: Callable[..., Path], tmp_path: Path) -> None:
    path = write_jsonl([tevatron(n) for n in range(30)])
    cheap, strong = estimated(config(path, prices=PRICES), tmp_path / "run")
    assert (cheap.calls, strong.calls, cheap.answered) == (30, 30, 0)
    assert cheap.completion_tokens == 30 * FORMS["rlhn"].tokens
    assert cheap.usd == (cheap.prompt_tokens * 1 + cheap.completion_tokens * 2) / 1e6
    assert "at most" in strong.basis


def test_a_pilot_measures_the_escalation_rate_and_the_tokens(write_jsonl: Callable[..., Path], tmp_path: Path) -> None:
    path = write_jsonl([tevatron(n) for n in range(300)])
    with ReplyServer(finds_the_first) as server:
        run(config(path, server.url), limit=60, output=tmp_path / "run", say=quiet)
        sent = dict(server.asked)
        cheap, strong = estimated(config(path, server.url), tmp_path / "run")
        assert server.asked == sent == {"small": 60, "large": 20}
    assert (cheap.answered, cheap.calls, strong.answered, strong.calls) == (60, 240, 20, 80)
    assert strong.basis == "33% escalated of 60 answered"
    assert cheap.completion_tokens // cheap.calls in range(
        len(rlhn_reply()) // 4 - 1, len(rlhn_reply(better=[1])) // 4 + 1
    )


def test_when_all_is_answered_nothing_is_left_to_pay(write_jsonl: Callable[..., Path], tmp_path: Path) -> None:
    path = write_jsonl([tevatron(n) for n in range(30)])
    with ReplyServer(finds_the_first) as server:
        run(config(path, server.url), output=tmp_path / "run", say=quiet)
        tiers = estimated(config(path, server.url, prices=PRICES), tmp_path / "run")
    assert [(tier.calls, tier.usd) for tier in tiers] == [(0, 0.0), (0, 0.0)]


def test_every_sample_is_a_call_and_equal_passages_are_one(write_jsonl: Callable[..., Path], tmp_path: Path) -> None:
    record = tevatron(1, negatives=3)
    record["negative_passages"].append(record["negative_passages"][0])
    judge = {"prompt": "graded", "model": "small", "client": "local", "samples": 5, "temperature": 0.7}
    given = config(write_jsonl([record]), cascade=[{"name": "only", "judge": judge}], policy={"relabel": [3]})
    (only,) = estimated(given, tmp_path / "run")
    assert only.calls == 15


def test_later_judges_are_counted_as_if_every_candidate_came_to_them(
    write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_jsonl([tevatron(n, negatives=4) for n in range(3)])
    arhn = load_config("arhn", [f"input.path={path}"])
    cascade = load_config("answer-cascade", [f"input.path={path}"])
    assert [tier.calls for tier in estimated(arhn, tmp_path / "a")] == [3 * 5, 3]
    assert [tier.calls for tier in estimated(cascade, tmp_path / "b")] == [3 * 5, 3 * 4]
