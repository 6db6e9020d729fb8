"""A run as a whole: over a real HTTP server, on real data where it is there."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from relabel.config import Config
from relabel.errors import ConfigError, InputError, RelabelError
from relabel.export import export_run
from relabel.folder import ledger_of, reopen
from relabel.formats import open_sink, open_source
from relabel.loading import load_config
from relabel.records import Instance, Outcome
from relabel.runs import Summary, run
from relabel.testing import Answer, ReplyServer, rlhn_reply
from tests.conftest import config, settings, tevatron
from tests.replay import Recorded, records

MOVING = {"config.yaml", "log.jsonl", "ledger.lock", "ledger-0001.sqlite", "report.json", "report.html"}


def quiet(message: str) -> None:
    """Notes are of no interest here."""


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def decisions(folder: Path) -> list[dict[str, Any]]:
    return list(pq.read_table(folder / "decisions.parquet").to_pylist())


@pytest.fixture
def recorded(fiqa: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Recorded, ReplyServer]]:
    handler = Recorded(fiqa)
    with ReplyServer(handler) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        yield handler, server


def replay(path: Path, folder: Path, *overrides: str) -> Summary:
    loaded = load_config("rlhn", [f"input.path={path}", *overrides])
    return run(loaded, output=folder, say=quiet)


class TestTheRecordedRunOfRLHN:
    def test_takes_one_cheap_call_for_each_query_and_a_strong_one_where_that_found_something(
        self, recorded: tuple[Recorded, ReplyServer], tmp_path: Path
    ) -> None:
        replay(recorded[0].source, tmp_path / "run")
        assert recorded[1].asked == Counter({"gpt-4o-mini": 25, "gpt-4o": 17})

    def test_decides_exactly_what_the_recorded_strong_verdicts_say(
        self, recorded: tuple[Recorded, ReplyServer], tmp_path: Path
    ) -> None:
        handler = recorded[0]
        replay(handler.source, tmp_path / "run")
        texts = {
            (record["query_id"], place): passage["text"]
            for record in handler.instances
            for place, passage in enumerate(record["negative_passages"], 1)
        }
        found: dict[str, dict[str, set[str]]] = {}
        for row in decisions(tmp_path / "run"):
            if row["action"] == "relabel":
                labels = found.setdefault(row["query_id"], {"better": set(), "worse": set()})
                labels[row["label"]].add(texts[row["query_id"], row["position"]])
        expected = {query: said for query, said in handler.strong_verdicts().items() if any(said.values())}
        assert found == expected
        assert (len(found), sum(len(t) for said in found.values() for t in said.values())) == (10, 23)

    def test_running_again_sends_nothing_and_leaves_every_byte_as_it_is(
        self, recorded: tuple[Recorded, ReplyServer], tmp_path: Path
    ) -> None:
        replay(recorded[0].source, tmp_path / "run")
        before = contents(tmp_path / "run")
        assert replay(recorded[0].source, tmp_path / "run").unchanged
        assert contents(tmp_path / "run") == before
        assert recorded[1].asked.total() == 42

    def test_another_policy_sends_nothing(self, recorded: tuple[Recorded, ReplyServer], tmp_path: Path) -> None:
        replay(recorded[0].source, tmp_path / "run")
        counts = {
            policy: export_run(tmp_path / "run", policy=policy, to=tmp_path / policy)[1]
            for policy in ("rlhn-relabel", "rlhn-drop", "rlhn-remove")
        }
        assert counts["rlhn-relabel"]["candidates"]["relabel"] == counts["rlhn-drop"]["candidates"]["drop"] == 23
        assert counts["rlhn-remove"]["instances"]["removed"] == 10
        only_better = replay(recorded[0].source, tmp_path / "run", "policy.relabel=[better]")
        assert only_better.report is not None
        assert only_better.report["candidates"]["relabel"] == 2
        assert recorded[1].asked.total() == 42

    @pytest.mark.parametrize("layout", ["triplet", "n-tuple", "labeled-pair", "labeled-list", "flagembedding", "beir"])
    def test_decides_the_same_in_every_format_and_comes_back_in_it(
        self, recorded: tuple[Recorded, ReplyServer], tmp_path: Path, layout: str
    ) -> None:
        handler = recorded[0]
        converted = (
            to_beir(handler.source, tmp_path) if layout == "beir" else converted_to(layout, handler.source, tmp_path)
        )
        summary = replay(converted, tmp_path / "run", "input.subset=fiqa")
        relabelled = {
            (record.query, passage.text)
            for record, rows in by_instance(converted, tmp_path / "run")
            for passage, row in zip(record.negatives, rows, strict=True)
            if row["action"] == "relabel"
        }
        queries = {record["query_id"]: record["query"] for record in handler.instances}
        expected = {
            (queries[query], text)
            for query, said in handler.strong_verdicts().items()
            for texts in said.values()
            for text in texts
        }
        assert relabelled == expected
        again = open_source(str(next(summary.folder.glob("cleaned.*"))))
        assert again.format_name == open_source(str(converted)).format_name
        positives = {(i.query, p.text) for i in again if isinstance(i, Instance) for p in i.positives}
        assert expected <= positives

    def test_verify_finds_nothing_amiss_and_every_tampered_file(
        self, recorded: tuple[Recorded, ReplyServer], tmp_path: Path
    ) -> None:
        from relabel.ledger import Ledger
        from relabel.verify import verify

        folder = tmp_path / "run"
        replay(recorded[0].source, folder)
        with Ledger(folder) as ledger:
            assert list(verify(reopen(folder), ledger)) == []
        lines = (folder / "cleaned.jsonl").read_bytes().splitlines(keepends=True)
        (folder / "cleaned.jsonl").write_bytes(b"".join([lines[1], lines[0], *lines[2:]]))
        rows = pq.read_table(folder / "decisions.parquet")
        column = rows.schema.get_field_index("action")
        pq.write_table(rows.set_column(column, "action", [["drop"] * len(rows)]), folder / "decisions.parquet")
        (folder / "quarantine.jsonl").unlink()
        with Ledger(folder) as ledger:
            findings = list(verify(reopen(folder), ledger))
        assert [finding.split(":")[0] for finding in findings] == [
            "cleaned.jsonl",
            "decisions.parquet",
            "quarantine.jsonl",
        ]
        assert "first in line 1" in findings[0]
        assert "first in row 1 (query" in findings[1]


def converted_to(layout: str, source: Path, folder: Path) -> Path:
    path = folder / f"{layout}.jsonl"
    sink = open_sink(path, layout if layout == "flagembedding" else f"sentence-transformers:{layout}")
    for instance in open_source(str(source)):
        assert isinstance(instance, Instance)
        sink.write(Outcome(instance, "keep", "keep", ()) if not instance.negatives else kept(instance))
    sink.close()
    return path


def kept(instance: Instance) -> Outcome:
    from relabel.records import Decision

    return Outcome(instance, "keep", "keep", tuple(Decision("keep", "", "") for _ in instance.negatives))


def to_beir(source: Path, folder: Path) -> Path:
    place = folder / "beir"
    (place / "qrels").mkdir(parents=True)
    corpus: dict[str, str] = {}
    queries, qrels, mined = [], ["query-id\tcorpus-id\tscore"], []
    for record in records(source):
        queries.append(json.dumps({"_id": record["query_id"], "text": record["query"]}))
        for side in ("positive_passages", "negative_passages"):
            for rank, passage in enumerate(record[side], 1):
                corpus[passage["docid"]] = json.dumps({"_id": passage["docid"], "title": "", "text": passage["text"]})
                if side == "positive_passages":
                    qrels.append(f"{record['query_id']}\t{passage['docid']}\t1")
                else:
                    mined.append(f"{record['query_id']} Q0 {passage['docid']} {rank} {100 - rank} bm25")
    for name, lines in (("corpus.jsonl", corpus.values()), ("queries.jsonl", queries), ("run.trec", mined)):
        (place / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    (place / "qrels" / "train.tsv").write_text("".join(line + "\n" for line in qrels), encoding="utf-8")
    return place


def by_instance(source: Path, folder: Path) -> Iterator[tuple[Instance, list[dict[str, Any]]]]:
    rows = iter(decisions(folder))
    for instance in open_source(str(source)):
        assert isinstance(instance, Instance)
        yield instance, [next(rows) for _ in instance.negatives]


@pytest.fixture
def train(write_jsonl: Callable[..., Path]) -> Path:
    return write_jsonl([tevatron(number) for number in range(1, 13)])


def finds_the_first(body: dict[str, Any]) -> str:
    """The cheap model flags every third query; the strong one upholds Doc (1)."""
    number = int(body["messages"][-1]["content"].split("what is the number ")[1].split("?")[0])
    return rlhn_reply(better=[1]) if number % 3 == 0 else rlhn_reply()


def test_counts_add_up_and_every_candidate_has_its_row(train: Path, tmp_path: Path) -> None:
    with train.open("a", encoding="utf-8") as file:
        file.write("{broken\n" + json.dumps(tevatron(99, negatives=0)) + "\n" + json.dumps({"query": "x"}) + "\n")
    with ReplyServer(finds_the_first) as server:
        report = run(config(train, server.url), output=tmp_path / "run", say=quiet).report
    assert report is not None
    assert report["instances"] == {"in": 15, "cleaned": 13, "removed": 0, "quarantined": 2, "changed": 4}
    counts = report["candidates"]
    assert counts["in"] == counts["relabel"] + counts["drop"] + counts["keep"] == len(decisions(tmp_path / "run")) == 36
    assert [record["line"] for record in records(tmp_path / "run" / "quarantine.jsonl")] == [13, 15]
    assert len(records(tmp_path / "run" / "cleaned.jsonl")) == 13


def test_one_row_more_costs_one_row_and_another_prompt_asks_that_judge_alone(train: Path, tmp_path: Path) -> None:
    from relabel.resources import shipped

    with ReplyServer(finds_the_first) as server:
        run(config(train, server.url), output=tmp_path / "run", say=quiet)
        assert server.asked == {"small": 12, "large": 4}
        train.write_text(json.dumps(tevatron(50)) + "\n" + train.read_text(encoding="utf-8"), encoding="utf-8")
        run(config(train, server.url), output=tmp_path / "run", say=quiet)
        assert server.asked == {"small": 13, "large": 4}
        mine = tmp_path / "mine.md"
        words = (shipped("prompts") / "rlhn.md").read_text(encoding="utf-8")
        mine.write_text(words.replace("careful", "patient"), encoding="utf-8")
        changed = config(train, server.url)
        strong = changed.cascade[1].model_copy(
            update={"judge": changed.cascade[1].judge.model_copy(update={"prompt": str(mine)})}
        )
        run(changed.model_copy(update={"cascade": [changed.cascade[0], strong]}), output=tmp_path / "run", say=quiet)
        assert server.asked == {"small": 13, "large": 8}


def test_a_prompt_that_has_changed_since_the_run_is_named(train: Path, tmp_path: Path) -> None:
    from relabel.resources import shipped

    mine = tmp_path / "mine.md"
    words = (shipped("prompts") / "rlhn.md").read_text(encoding="utf-8")
    mine.write_text(words, encoding="utf-8")
    with ReplyServer(finds_the_first) as server:
        given = settings(train, server.url)
        given["cascade"] = [{"name": "only", "judge": {"prompt": str(mine), "model": "small", "client": "local"}}]
        run(Config.model_validate(given), output=tmp_path / "run", say=quiet)
    mine.write_text(words.replace("careful", "hasty"), encoding="utf-8")
    with pytest.raises(InputError, match="the prompts have changed since the run"):
        reopen(tmp_path / "run")


def test_a_folder_that_held_a_run_with_other_judges_says_so_once(train: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    overrides = [f"input.path={train}"]
    run("quickstart", overrides=overrides, output=tmp_path / "run", say=notes.append)
    run("quickstart", overrides=[*overrides, "policy.drop=[duplicate]"], output=tmp_path / "run", say=notes.append)
    assert notes == []
    one = "cascade=[{name: exact, judge: {screen: exact-duplicate}}]"
    for _ in range(2):
        run("quickstart", overrides=[*overrides, one, "policy={}"], output=tmp_path / "run", say=notes.append)
    assert len(notes) == 1
    assert "held a run with exact exact-duplicate and near near-duplicate" in notes[0]


def test_deleting_what_is_derived_loses_nothing(train: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with ReplyServer(finds_the_first) as server:
        run(config(train, server.url), output=folder, say=quiet)
        before = contents(folder)
        for name in ("cleaned.jsonl", "decisions.parquet", "quarantine.jsonl", "report.json", "report.html"):
            (folder / name).unlink()
        run(config(train, server.url), output=folder, say=quiet)
        after = contents(folder)
        assert {n: c for n, c in after.items() if n not in MOVING} == {
            n: c for n, c in before.items() if n not in MOVING
        }
        assert server.asked.total() == 16


def test_an_unfinished_run_leaves_no_cleaned_set_and_export_says_so(train: Path, tmp_path: Path) -> None:
    from relabel.errors import Unfinished

    folder = tmp_path / "run"
    with ReplyServer(finds_the_first) as server:
        limited = config(train, server.url, budget={"requests": 5})
        summary = run(limited, output=folder, say=quiet)
        assert summary.report is None
        assert "budget.requests" in summary.stopped
        assert server.asked.total() == 5
        assert not list(folder.glob("cleaned*"))
        with pytest.raises(Unfinished, match="wait for a reply"):
            export_run(folder)
        report = export_run(folder, partial=True, to=tmp_path / "partial")[1]
        assert report["candidates"]["unanswered"] > 0
        assert not list(folder.glob("*partial*"))
        assert run(config(train, server.url), output=folder, say=quiet).report is not None
        assert server.asked.total() == 16


def test_a_changed_source_is_refused_by_what_is_derived(train: Path, tmp_path: Path) -> None:
    with ReplyServer(finds_the_first) as server:
        run(config(train, server.url), output=tmp_path / "run", say=quiet)
    train.write_text(train.read_text(encoding="utf-8") + json.dumps(tevatron(50)) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match="has changed since the run"):
        export_run(tmp_path / "run")


def test_abstentions_are_escalated_counted_and_finally_undecided(train: Path, tmp_path: Path) -> None:
    with ReplyServer(lambda body: Answer("who knows?")) as server:
        report = run(config(train, server.url), output=tmp_path / "run", say=quiet).report
        assert server.asked == {"small": 24, "large": 24}
    assert report is not None
    assert report["candidates"]["undecided"] == 36
    assert report["tiers"]["strong"]["abstained"] == {"no_verdict": 36}


def test_a_source_of_which_nothing_is_usable_is_an_error_that_names_the_quarantine(
    write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_jsonl([{"query_id": "1", "query": "", "positive_passages": [], "negative_passages": []}])
    with pytest.raises(InputError, match=r"nothing usable: all 1 records are quarantined"):
        run(config(path), output=tmp_path / "run", say=quiet)
    assert len(records(tmp_path / "run" / "quarantine.jsonl")) == 1


def test_it_runs_where_an_event_loop_is_running_already(train: Path, tmp_path: Path) -> None:
    import asyncio

    async def cell() -> Summary:
        return run("quickstart", output=tmp_path / "run", say=quiet)

    assert asyncio.run(cell()).report is not None

    with ReplyServer(finds_the_first) as server:

        async def other_cell() -> Summary:
            return run(config(train, server.url), output=tmp_path / "other", say=quiet)

        assert asyncio.run(other_cell()).report is not None


def test_the_quickstart_finds_the_copies_in_its_sample_and_asks_nobody(tmp_path: Path) -> None:
    summary = run("quickstart", output=tmp_path / "run", say=quiet)
    path = load_config("quickstart").input.path
    kinds = {n["docid"]: n["kind"] for record in records(Path(path)) for n in record["negative_passages"]}
    dropped = Counter(kinds[row["docid"]] for row in decisions(summary.folder) if row["action"] == "drop")
    judged = Counter(kinds[row["docid"]] for row in decisions(summary.folder) if row["rule"] != "unjudged")
    assert set(dropped) == {"exact-duplicate", "near-duplicate"}
    assert all(dropped[kind] == judged[kind] for kind in dropped)


def test_the_sample_holds_false_negatives_of_every_kind_over_several_subsets() -> None:
    found = records(Path(load_config("quickstart").input.path))
    assert len(found) >= 40
    assert len({record["subset"] for record in found}) == 5
    kinds = Counter(negative["kind"] for record in found for negative in record["negative_passages"])
    assert min(kinds.values()) >= 10
    assert set(kinds) == {"true-negative", "exact-duplicate", "near-duplicate", "paraphrase", "other-answer"}


def test_another_output_format_is_written_and_read_back(train: Path, tmp_path: Path) -> None:
    with ReplyServer(finds_the_first) as server:
        run(config(train, server.url), output=tmp_path / "run", say=quiet)
    path = tmp_path / "flag.jsonl.gz"
    export_run(tmp_path / "run", format="flagembedding", to=path)
    again = list(open_source(str(path)))
    assert len(again) == 12
    assert sum(len(i.positives) for i in again if isinstance(i, Instance)) == 12 + 4


def test_an_instance_that_the_other_format_cannot_hold_is_removed_and_counted(
    write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_jsonl([tevatron(1), tevatron(2, negatives=0), tevatron(3)])
    with ReplyServer(finds_the_first) as server:
        run(config(path, server.url), output=tmp_path / "run", say=quiet)
    report = export_run(tmp_path / "run", format="sentence-transformers:triplet", to=tmp_path / "t.jsonl")[1]
    assert (report["instances"]["cleaned"], report["removed_by"]) == (2, {"format-needs-negatives": 1})
    assert len(list(open_source(str(tmp_path / "t.jsonl")))) == 2


def test_a_source_is_never_written_over(train: Path, tmp_path: Path) -> None:
    with ReplyServer(finds_the_first) as server:
        run(config(train, server.url), output=tmp_path / "run", say=quiet)
        with pytest.raises(ConfigError, match="is the run's own source"):
            export_run(tmp_path / "run", to=train)
        with pytest.raises(ConfigError, match="lies among what is written"):
            run(config(tmp_path / "run" / "cleaned.jsonl", server.url), output=tmp_path / "run", say=quiet)
        with pytest.raises(ConfigError, match="holds a run of its own"):
            export_run(tmp_path / "run", to=tmp_path / "run")
        with pytest.raises(ConfigError, match="is empty"):
            export_run(tmp_path / "run", to="")
    assert len(records(train)) == len(records(tmp_path / "run" / "cleaned.jsonl")) == 12


def test_a_folder_of_another_policy_can_be_verified_by_itself(train: Path, tmp_path: Path) -> None:
    from relabel.verify import verify

    with ReplyServer(finds_the_first) as server:
        run(config(train, server.url), output=tmp_path / "run", say=quiet)
    export_run(tmp_path / "run", policy="rlhn-drop", to=f"{tmp_path}/new/dropped.d/")
    opened = reopen(tmp_path / "new" / "dropped.d")
    assert opened.config.policy.drop == ["better", "worse"]
    with ledger_of(opened.folder, opened.config) as ledger:
        assert list(verify(opened, ledger)) == []


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_the_suffix_names_the_container_that_is_written(train: Path, tmp_path: Path, name: str) -> None:
    with ReplyServer(finds_the_first) as server:
        run(config(train, server.url), output=tmp_path / "run", say=quiet)
    for start in ("run", "again"):
        path, _ = export_run(tmp_path / start, to=tmp_path / f"{start}-{name}")
        source = open_source(str(path))
        assert source.suffix == name.removeprefix("a")
        assert sum(len(i.positives) for i in source if isinstance(i, Instance)) == 12 + 4
        parquet, _ = export_run(tmp_path / "run", policy="{}", to=tmp_path / "plain.parquet")
        with ReplyServer(finds_the_first) as server:
            run(config(parquet, server.url), output=tmp_path / "again", say=quiet)


def test_another_source_in_the_same_folder_is_said(
    train: Path, write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    other = write_jsonl([tevatron(70)], "other.jsonl")
    said: list[str] = []
    with ReplyServer(finds_the_first) as server:
        for path in (train, other):
            run(config(path, server.url), output=tmp_path / "run", say=said.append)
    assert [f"held a run over {train}" in message for message in said] == [True]


def test_a_notebook_may_call_run_again_and_again(tmp_path: Path) -> None:
    import relabel

    for _ in range(2):
        assert relabel.run("quickstart", output=tmp_path / "run").report is not None


def test_a_wrong_config_leaves_the_results_of_the_last_run_alone(train: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with ReplyServer(finds_the_first) as server:
        run(config(train, server.url), output=folder, say=quiet)
        before = contents(folder)
        for wrong in (
            config(train, "ftp://me:secret@host"),
            config(train, server.url, output={"format": "flagembeding"}),
            config(train, server.url, output={"format": "beir"}),
        ):
            with pytest.raises(RelabelError) as found:
                run(wrong, output=folder, say=quiet)
            assert "secret" not in str(found.value)
        assert contents(folder) == before
        assert server.asked.total() == 16


def test_a_runs_own_config_goes_on_in_its_own_folder(
    train: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ReplyServer(finds_the_first) as server:
        run(config(train, server.url), output=tmp_path / "run", say=quiet)
        monkeypatch.chdir(tmp_path / "run")
        assert run("config.yaml", overrides=["policy.relabel=[better]"], say=quiet).report is not None
        assert server.asked.total() == 16
    assert not (tmp_path / "run" / "outputs").exists()


def test_credentials_in_an_address_are_written_nowhere(train: Path, tmp_path: Path) -> None:
    with ReplyServer(finds_the_first) as server:
        run(config(train, server.url.replace("//", "//me:PASSWORD@")), output=tmp_path / "run", say=quiet)
    assert not [name for name, content in contents(tmp_path / "run").items() if b"PASSWORD" in content]


def test_nothing_usable_stays_an_error_when_run_again(write_jsonl: Callable[..., Path], tmp_path: Path) -> None:
    path = write_jsonl([{"query_id": "1", "query": "", "positive_passages": [], "negative_passages": []}])
    for _ in range(2):
        with pytest.raises(InputError, match="nothing usable"):
            run("quickstart", overrides=[f"input.path={path}"], output=tmp_path / "run", say=quiet)


def test_forged_counts_are_found(train: Path, tmp_path: Path) -> None:
    from relabel.verify import verify

    folder = tmp_path / "run"
    run("quickstart", overrides=[f"input.path={train}"], output=folder, say=quiet)
    text = (folder / "report.json").read_text(encoding="utf-8")
    (folder / "report.json").write_text(text.replace('"keep": 36', '"keep": 35'), encoding="utf-8")
    with ledger_of(folder, config(train)) as ledger:
        assert [finding.split(":")[0] for finding in verify(reopen(folder), ledger)] == ["report.json"]


def test_an_interrupt_in_a_notebook_keeps_what_is_paid(train: Path, tmp_path: Path) -> None:
    import asyncio
    import os
    import signal
    import threading

    async def cell(url: str) -> Summary:
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
        return run(config(train, url), output=tmp_path / "run", say=quiet)

    with ReplyServer(lambda body: Answer(rlhn_reply(), latency=0.6)) as server:
        summary = asyncio.run(cell(server.url))
        assert summary.stopped == "interrupted"
        asked = server.asked.total()
        run(config(train, server.url), output=tmp_path / "run", say=quiet)
        assert server.asked.total() == 12 >= asked


def test_a_partial_export_decides_nothing_by_a_tier_that_another_would_have_checked(
    write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    def handler(body: dict[str, Any]) -> str | Answer:
        if body["model"] == "small":
            return Answer(status=500) if "Candidate 3" in body["messages"][-1]["content"] else rlhn_reply(better=[1])
        return rlhn_reply()

    given = config(write_jsonl([tevatron(1)]))
    cheap = given.cascade[0].model_copy(
        update={"judge": given.cascade[0].judge.model_copy(update={"max_candidates": 1})}
    )
    with ReplyServer(handler) as server:
        clients = {"local": given.clients["local"].model_copy(update={"base_url": server.url, "max_attempts": 1})}
        changed = given.model_copy(update={"cascade": [cheap, given.cascade[1]], "clients": clients})
        assert run(changed, output=tmp_path / "run", say=quiet).report is None
    _, report = export_run(tmp_path / "run", partial=True)
    assert report["candidates"] == {"in": 3, "relabel": 0, "drop": 0, "keep": 3, "undecided": 0, "unanswered": 3}
