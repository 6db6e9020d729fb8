"""What goes wrong when the command is used, case by case: its exit code, what it says, and that nothing is lost by it.

2 is bad usage, config or input; 1 is work left undone, with the command that goes on; 0 has quarantined what it could
not use, or says what is odd.
"""

from __future__ import annotations

import gzip
import json
import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from relabel.ledger import Ledger
from relabel.testing import Answer, ReplyServer, rlhn_reply
from tests.conftest import settings, tevatron

KEY = "sk-secret-0123456789abcdef"
SERVED: Mapping[str, str | Answer] = {
    "wrong-key": Answer(status=401, body={"error": {"message": f"Incorrect API key provided: {KEY}"}}),
    "forbidden": Answer(status=403, body={"error": {"message": "Country not supported"}}),
    "unknown": Answer(status=404, body={"error": {"message": "The model `unknown` does not exist"}}),
    "no-credit": Answer(status=429, body={"error": {"message": "Out of credit", "code": "insufficient_quota"}}),
    "portal": Answer(body="<html>Please log in</html>"),
    "moved": Answer(status=307, headers={"Location": "http://127.0.0.1:9/v1"}, body=""),
    "no-api": Answer(status=405, body=""),
    "too-long": Answer(
        status=400, body={"error": {"message": "maximum context length", "code": "context_length_exceeded"}}
    ),
    "gibberish": "I would rather talk about something else.",
    "cut-off": Answer("<thinking>", finish_reason="length"),
}


@dataclass(frozen=True)
class Case:
    """A command, what it exits with, and what it says: on stderr, or on stdout if it succeeds."""

    command: str
    code: int
    says: str
    given: Mapping[str, str] = field(default_factory=dict)


def run(settings: str, says: str, code: int = 2, **environment: str) -> Case:
    """`relabel run my.yaml` with settings changed, as `key=value` separated by blanks."""
    given = " ".join(f"--set {one}" for one in settings.split())
    return Case(f"run my.yaml {given}", code, says, environment)


def source(path: str, says: str, code: int = 2) -> Case:
    return run(f"input.path={path}", says, code)


def served(model: str, says: str, code: int = 1) -> Case:
    """A server that answers this model's requests as SERVED says."""
    return Case(f"run my.yaml --set cascade.only.judge.model={model}", code, says, {"OPENAI_API_KEY": KEY})


CASES = {
    # usage
    "no command": Case("frobnicate", 2, "No such command 'frobnicate'"),
    "no argument": Case("run", 2, "Missing argument 'CONFIG'"),
    "unknown option": Case("run quickstart --frobnicate", 2, "No such option"),
    "no such config": Case("run nowhere.yaml", 2, "nowhere.yaml: no such config; name a YAML file, a run folder"),
    "a folder as config": Case("run folder", 2, "folder: no such config"),
    "limit of words": Case("run quickstart --limit many", 2, "Invalid value for '--limit'"),
    "limit of nothing": Case("run quickstart --limit 0", 2, "--limit 0: expected 1 or more"),
    "retry of everything": Case("run quickstart --retry everything", 2, "expected abstained or refused"),
    "set without a value": Case("run quickstart --set policy", 2, "expected key.path=value"),
    "set of a tier that is not there": Case("run quickstart --set cascade.9.name=x", 2, "cascade.9.name=x"),
    "set below a plain value": Case("run quickstart --set input.path.x=1", 2, "input.path is a plain value"),
    "output is a file": Case("run quickstart --output good.jsonl", 2, "good.jsonl: cannot be made"),
    "output is nobody's run": Case("run quickstart --output foreign", 2, "report.html, which no run wrote"),
    "output holds the source": Case(
        "run rlhn --set input.path=own/cleaned.jsonl --output own", 2, "among what is written"
    ),
    "output cannot be made": Case("run quickstart --output /proc/run", 2, "/proc/run: cannot be made"),
    "export of nothing": Case("export nowhere", 2, "nowhere: not a run folder"),
    "report of nothing": Case("report folder", 2, "folder: not a run folder"),
    "verify of nothing": Case("verify nowhere", 2, "nowhere: not a run folder"),
    "status of nothing": Case("status good.jsonl", 2, "good.jsonl: not a run folder"),
    "unknown policy": Case("export before --policy kind", 2, "policies are: arhn-filter, arhn-relabel, rlhn-drop"),
    "policy of another type": Case(
        "export before --policy '{relabel: better}'", 2, "relabel: input should be a valid list"
    ),
    "policy with another's label": Case("export before --policy '{relabel: [equal]}'", 2, "the label 'equal'"),
    "unknown format to export": Case("export before --format excel", 2, "excel"),
    "export to nowhere": Case("export before --to ''", 2, "--to: is empty"),
    "export to an unknown suffix": Case("export before --to x.xlsx", 2, "x.xlsx: unknown suffix; expected one of"),
    "export onto another run": Case("export before --to half/", 2, "half: holds a run of its own"),
    "export onto the source": Case("export before --to {source}", 2, "is the run's own source"),
    "export of half a run": Case("export half", 1, "wait for a reply. `relabel run half` goes on"),
    "status of half a run": Case("status half", 1, "not complete: `relabel run half` goes on"),
    # config
    "an empty config": Case("run empty.yaml", 2, "empty.yaml: expected a mapping with keys input, cascade, policy"),
    "a list as config": Case("run list.yaml", 2, "list.yaml: expected a mapping"),
    "no YAML": Case("run broken.yaml", 2, "broken.yaml, line 1, column"),
    "a key that stands twice": Case("run twice.yaml", 2, "key 'input' stands twice"),
    "a config in another encoding": Case("run latin.yaml", 2, "latin.yaml: "),
    "unknown key": run("policy.relable=[x]", "did you mean 'relabel'?"),
    "unknown key at the top": run("polycy.relabel=[x]", "did you mean 'policy'?"),
    "a key for the client written out": run(f"clients.local.api_key={KEY}", "did you mean 'api_key_env'?"),
    "no tiers": run("cascade=[]", "cascade"),
    "unknown client": run("cascade.only.judge.client=x", "names the client 'x'; clients are: local"),
    "unknown client kind": run("clients.local.kind=x", "clients.local"),
    "a client without a kind": run("clients.other={}", "has no 'kind'; expected one of openai, replay"),
    "no model": run("cascade.only.judge.model=null", "cascade.0.judge"),
    "last tier escalates": run("cascade.only.escalate.labels=[better]", "is the last: there is nothing to escalate to"),
    "a label that nobody gives": run("policy.relabel=[wurst]", "no tier gives the label 'wurst'; they give irrelevant"),
    "an escalation of what nobody says": Case(
        "run quickstart --set cascade.near.escalate.labels=[x]", 2, "tier 'near' cannot escalate 'x'"
    ),
    "a label with two meanings": run("policy.drop=[better]", "label 'better' leads to more than one action"),
    "unknown prompt": run("cascade.only.judge.prompt=x", "prompt 'x' not found; expected one of answer-ranking"),
    "a prompt that shows no candidates": run("cascade.only.judge.prompt=bare.md", "bare.md"),
    "a ranking of snippets that nobody seeks": run("cascade.only.judge.prompt=answer-ranking", "answer-snippet before"),
    "a setting that means nothing": run("cascade.only.judge.orders=3", "'orders' means nothing to a judge"),
    "a budget without prices": run("budget.usd=1", "budget.usd needs prices for m"),
    "a negative budget": run("budget.requests=-1", "budget.requests"),
    "no concurrency": run("clients.local.concurrency=0", "clients.local.concurrency"),
    "a temperature in words": run("cascade.only.judge.temperature=hot", "temperature"),
    "samples that are all alike": run("cascade.only.judge.samples=3 cascade.only.judge.temperature=0", "all alike"),
    "a context without room": run("cascade.only.judge.context=600 cascade.only.judge.max_tokens=10", "Raise context"),
    "extra_body sets what is ours": run("cascade.only.judge.extra_body.model=x", "extra_body may not set model"),
    "no URL": run("clients.local.base_url=localhost:8000", "expected http://host"),
    "another protocol": run("clients.local.base_url=ftp://host/v1", "expected http://host"),
    "no key for OpenAI": run("clients.local.base_url=null", "no key for https://api.openai.com/v1. Set OPENAI_API_KEY"),
    "a key that is not set": run("clients.local.api_key_env=NO_SUCH", "api_key_env names NO_SUCH, which is not set"),
    "a key with a line break": run("budget.requests=9", "OPENAI_API_KEY holds characters", OPENAI_API_KEY=f"{KEY}\nx"),
    "Azure without a version": run("clients.local.azure_endpoint=https://x", "Azure needs api_version"),
    "a ledger to read that is not there": run("ledger.read=[nowhere]", "nowhere: no ledger there"),
    "a recording that is not there": run(
        "clients.local=null clients.local.kind=replay clients.local.path=nowhere", "nowhere"
    ),
    # input
    "no such source": source("nowhere.jsonl", "nowhere.jsonl: No such file"),
    "an empty source": source("empty.jsonl", "the file is empty"),
    "a folder of anything": source("folder", "folder"),
    "blank lines only": source("blank.jsonl", "blank.jsonl"),
    "not one usable record": source("useless.jsonl", "nothing usable: all 3 records are quarantined"),
    "other columns": source("columns.jsonl", "columns.jsonl"),
    "cut-off gzip": source("cut.jsonl.gz", "cut.jsonl.gz"),
    "no gzip": source("fake.jsonl.gz", "fake.jsonl.gz"),
    "no zstd": source("fake.jsonl.zst", "fake.jsonl.zst"),
    "no Parquet": source("fake.parquet", "fake.parquet"),
    "another suffix": source("good.csv", "3 in = 3 cleaned", 0),
    "a CSV": source("real.csv", "real.csv"),
    "a run for what is no BEIR folder": run("input.path=good.jsonl input.run=run.trec", "leave out input.run"),
    "unknown format": run("input.path=good.jsonl input.format=csv", "unknown format 'csv'; expected one of tevatron"),
    "another format": run("input.path=good.jsonl input.format=flagembedding", "good.jsonl"),
    "BEIR without mined negatives": source("beir", "no run file with the mined negatives; name one with input.run"),
    "a split that is not there": run(
        "input.path=good.jsonl input.split=test", "a file has no split (found 'test'); leave out input.split"
    ),
    "some records of no use": source("mixed.jsonl", "2 in = 1 cleaned + 0 removed + 1 quarantined", 0),
    # the folder's state
    "a source that has changed": Case("export changed", 2, "has changed since the run"),
    "a newer ledger": Case("run my.yaml --output newer", 2, "newer/ledger-0001.sqlite: of version 99"),
    "a ledger in use": Case("run my.yaml --output held", 2, "is writing this run. Wait for it"),
    "a damaged ledger": Case("run my.yaml --output damaged", 0, "candidates  9 in = 3 relabel"),
    "a damaged ledger to read": Case("run my.yaml --set ledger.read=[broken]", 2, "broken/ledger-0001.sqlite: "),
    "an edited report": Case("verify edited", 1, "report.json: is damaged, or was edited"),
    # the server
    "no server": run("clients.local.base_url=http://127.0.0.1:9/v1", "no server there: no connection", 1),
    "a wrong key": served("wrong-key", "Check the key in OPENAI_API_KEY"),
    "a key without rights": served("forbidden", "The account may not use this"),
    "an unknown model": served("unknown", "Check the tier's model and the client's base_url"),
    "no credit left": served("no-credit", "The account may not use this; see to it there"),
    "a log-in page": served("portal", "That is no chat completions API"),
    "another address": served("moved", "That is no chat completions API; check base_url"),
    "another API": served("no-api", "That is no chat completions API; check base_url"),
    "prompts that are too long": served("too-long", "9 abstained: refused", 0),
    "replies that make no sense": served("gibberish", "9 abstained: no_verdict", 0),
    "replies that are cut off": served("cut-off", "9 abstained: length", 0),
    "a budget that is used up": run("budget.requests=2", "-used-up --set budget.requests=4\n", 1),
}


@pytest.fixture(scope="module")
def server() -> Iterator[ReplyServer]:
    with ReplyServer(lambda body: SERVED.get(body["model"], rlhn_reply(better=[1]))) as server:
        yield server


@pytest.fixture(scope="module")
def place(server: ReplyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with all that the cases name."""
    place = tmp_path_factory.mktemp("mistakes")
    good = "".join(json.dumps(tevatron(number)) + "\n" for number in range(1, 4))
    for name in ("good.jsonl", "good.csv", "own/cleaned.jsonl", "other.jsonl"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text(good, encoding="utf-8")
    for name in ("folder", "foreign", "beir/qrels"):
        (place / name).mkdir(parents=True)
    (place / "foreign" / "report.html").touch()
    (place / "real.csv").write_text("query,pos,neg\na,b,c\n", encoding="utf-8")
    (place / "empty.yaml").touch()
    (place / "list.yaml").write_text("- input\n", encoding="utf-8")
    (place / "broken.yaml").write_text("input: {path: [}", encoding="utf-8")
    (place / "twice.yaml").write_text("input: {}\ninput: {}\n", encoding="utf-8")
    (place / "latin.yaml").write_bytes("# Grüße\n".encode("latin-1"))
    (place / "bare.md").write_text("---\nreply: rlhn\n---\nhello\n", encoding="utf-8")
    (place / "empty.jsonl").touch()
    (place / "blank.jsonl").write_text("\n\n\n", encoding="utf-8")
    (place / "useless.jsonl").write_text(good.replace("q", "", 1).replace('query"', 'x"'), encoding="utf-8")
    (place / "columns.jsonl").write_text('{"a": 1}\n', encoding="utf-8")
    (place / "mixed.jsonl").write_text(good.splitlines()[0] + '\n{"query": "a"}\n', encoding="utf-8")
    (place / "cut.jsonl.gz").write_bytes(gzip.compress(good.encode() * 50)[:-40])
    for name in ("fake.jsonl.gz", "fake.jsonl.zst", "fake.parquet"):
        (place / name).write_bytes(b"this is nothing of the kind" * 9)
    passage = json.dumps({"_id": "d", "title": "", "text": "t"})
    (place / "beir" / "corpus.jsonl").write_text(passage + "\n", encoding="utf-8")
    (place / "beir" / "queries.jsonl").write_text('{"_id": "q", "text": "?"}\n', encoding="utf-8")
    (place / "beir" / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n", encoding="utf-8")
    config = settings(place / "good.jsonl", server.url)
    config["cascade"] = [{"name": "only", "judge": {"prompt": "rlhn", "model": "m", "client": "local"}}]
    (place / "my.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert relabel("run my.yaml --output before", place).returncode == 0
    for name in ("newer", "held", "damaged", "broken", "edited"):
        shutil.copytree(place / "before", place / name)
    edit(place / "newer" / "ledger-0001.sqlite", "PRAGMA user_version = 99")
    with (place / "damaged" / "ledger-0001.sqlite").open("rb+") as file:
        file.write(b"\0" * 50)
    (place / "broken" / "ledger-0001.sqlite").write_bytes(b"no ledger at all" * 99)
    with (place / "edited" / "report.json").open("a", encoding="utf-8") as file:
        file.write(" \n{}")
    for name in ("newer", "held", "damaged"):
        (place / name / "report.json").unlink()
    assert relabel("run my.yaml --output half --set budget.requests=1", place).returncode == 1
    assert relabel("run my.yaml --output changed --set input.path=other.jsonl", place).returncode == 0
    (place / "other.jsonl").write_text(good.replace("number", "figure"), encoding="utf-8")
    with Ledger(place / "held", write=True):
        yield place


def edit(path: Path, statement: str) -> None:
    db = sqlite3.connect(path)
    db.execute(statement)
    db.close()


def relabel(command: str, place: Path, **given: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "AZURE_"))}
    arguments = shlex.split(command.replace("{source}", str(place / "good.jsonl")))
    return subprocess.run(
        [sys.executable, "-m", "relabel", *arguments],
        cwd=place,
        env={**clean, **given},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def held(place: Path) -> dict[str, bytes]:
    """What no mistake may touch: the sources, and a finished run."""
    files = [place / "good.jsonl", *(path for path in (place / "before").rglob("*") if path.name != "ledger.lock")]
    return {str(path): path.read_bytes() for path in files if path.is_file()}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_mistake(case: Case, place: Path, request: pytest.FixtureRequest) -> None:
    before = held(place)
    command = case.command
    if command.startswith("run my.yaml") and "--output" not in command:
        command += f" --output out/{request.node.callspec.id.replace(' ', '-').replace(chr(39), '')}"
    done = relabel(command, place, **case.given)
    assert case.says in (done.stdout if case.code == 0 else done.stderr + done.stdout), done.stderr
    assert done.returncode == case.code, done.stderr
    assert "Traceback" not in done.stderr
    assert KEY not in (done.stdout + done.stderr).replace(command, "")
    assert held(place) == before
    if case.code == 1 and command.startswith("run"):
        assert "running again goes on: relabel run my.yaml" in done.stderr
    if case.code == 2:
        assert done.stdout == ""


def test_no_case_leaves_the_key_anywhere(place: Path) -> None:
    """Runs after the others, some of which are given it by their server."""
    found: list[Any] = [path for path in place.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert found == []
