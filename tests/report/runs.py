"""Real runs whose pages are looked at, each made through a server and the whole of the program."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from relabel.differences import difference, write_difference
from relabel.export import report_run
from relabel.labels import read_labels
from relabel.runs import run
from relabel.testing import Answer, LabelledJudge, ReplyServer, rlhn_reply
from tests.conftest import config, tevatron
from tests.report import hostile

Handler = Callable[[dict[str, Any]], str | Answer]
NEVER: dict[str, Any] = {"budget": {"abstained": None}}

ARABIC = "ما هي عاصمة فرنسا؟ باريس هي عاصمة فرنسا وأكبر مدنها من حيث عدد السكان (2.1 مليون)."
HEBREW = "מהי בירת צרפת? פריז היא בירת צרפת, והעיר הגדולה בה (105 קמ״ר)."
CHINESE = "法國的首都是哪裡？巴黎是法國的首都和最大城市，人口約有二百一十萬。" * 4
JAPANESE = "フランスの首都はどこですか。パリはフランスの首都であり、最大の都市である。"


def written(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Rows as JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def quiet(message: str) -> None:
    """Notes are of no interest here."""


def listwise(folder: Path, rows: Sequence[Mapping[str, Any]], handler: Handler, **changes: Any) -> Path:
    """A run of two tiers, each shown all candidates of a query in one prompt."""
    source = written(folder.parent / f"{folder.name}.jsonl", rows)
    prices = {"small": {"prompt": 0.15, "completion": 0.6}, "large": {"prompt": 2.5, "completion": 10.0}}
    with ReplyServer(handler) as server:
        run(config(source, server.url, prices=prices, **changes), output=folder, say=quiet)
    return folder


def cascaded(
    folder: Path, source: Path, handler: Handler, *overrides: str, labels: Path | None = None, relevant: float = 1
) -> Path:
    """A run of four tiers, with evidence; `labels` go into its report."""
    with ReplyServer(handler) as server:
        given = [f"input.path={json.dumps(str(source))}", f"clients.openai.base_url={server.url}", *overrides]
        run("answer-cascade", overrides=given, output=folder, say=quiet)
    if labels is not None:
        report_run(folder, read_labels(str(labels), relevant))
    return folder


def two_tiers(folder: Path) -> Path:
    """Three subsets, one of them without a name; of every second query the strong model upholds one of two."""
    rows = [tevatron(n, 4, subset=("nq", "fiqa", "")[n % 3]) for n in range(1, 37)]
    return listwise(folder, rows, _every_second)


def _every_second(body: dict[str, Any]) -> str:
    number = int(body["messages"][-1]["content"].split("what is the number ")[1].split("?")[0])
    found = [1, 3] if body["model"] == "small" else [1]
    return rlhn_reply(better=found) if number % 2 == 0 else rlhn_reply()


def with_evidence(folder: Path) -> Path:
    """Three subsets, judged with evidence by a model that is right 9 times in 10, and by people."""
    rows = []
    for n in range(1, 31):
        row = tevatron(n, 5, subset=("nq", "fiqa", "hotpotqa")[n % 3])
        for place, one in enumerate(row["negative_passages"]):
            one |= {"title": f"About {n}", "score": 20.5 - place}
        rows.append(row)
    grades = {
        row["query"]: {
            **{one["text"]: 2.0 for one in row["positive_passages"] if not row["query_id"].endswith("7")},
            **{one["text"]: float(place == 0) for place, one in enumerate(row["negative_passages"])},
        }
        for row in rows
    }
    labels = [
        {"query_id": row["query_id"], "docid": one["docid"], "grade": float(place == 0)}
        for row in rows
        for place, one in enumerate(row["negative_passages"])
    ]
    source = written(folder.parent / f"{folder.name}.jsonl", rows)
    judge = LabelledJudge(grades, relevant=1, accuracy=0.9, malformed=0.03)
    return cascaded(folder, source, judge, labels=written(folder.parent / "people.jsonl", labels))


def calibrated(folder: Path) -> Path:
    """A run that escalates what its calibration is unsure of, on a subset that this was not fitted on."""
    from relabel.calibrating.files import learn
    from relabel.calibrating.target import target_of
    from tests.calibrating import test_pilot

    place = folder.parent
    place.mkdir(parents=True, exist_ok=True)
    judge = LabelledJudge(test_pilot.grades(), relevant=1, accuracy=0.8)
    with ReplyServer(judge) as server:
        pilot = test_pilot.pilot(place, server, test_pilot.ALL)
        people = str(test_pilot.labels(place))
        target = target_of(None, None, None, None)
        _, made = learn([str(pilot)], people, 2, "versus", [], target, None, place / "calibration.json")
        other = test_pilot.write(place, "other.jsonl", subset="other")
        run(str(made), overrides=[f"input.path={other}"], output=folder, say=quiet)
    return folder


def untouched(folder: Path) -> Path:
    """Nothing is found."""
    return listwise(folder, [tevatron(n) for n in range(1, 9)], lambda body: rlhn_reply())


def abstained(folder: Path) -> Path:
    """No reply can be understood."""
    return listwise(folder, [tevatron(n) for n in range(1, 9)], lambda body: "I would rather not say.", **NEVER)


def single(folder: Path) -> Path:
    """One instance with one candidate."""
    return listwise(folder, [tevatron(1, 1)], lambda body: rlhn_reply(worse=[1]))


def many_subsets(folder: Path) -> Path:
    """Forty subsets with long names, with and without places where they may be broken."""
    names = [
        f"{'a-rather-long-name-' if n % 2 else 'AnUnbrokenName'}{'of_a_subset' * (1 + n % 4)}-{n}" for n in range(40)
    ]
    return listwise(folder, [tevatron(n, 3, subset=name) for n, name in enumerate(names)], _every_second)


def scripts(folder: Path) -> Path:
    """Right-to-left scripts, and those that write no spaces, in every field."""
    rows = []
    for n, words in enumerate((ARABIC, HEBREW, CHINESE, JAPANESE, f"{ARABIC} {CHINESE} and English")):
        row = tevatron(n, 3, subset=words[:24])
        row |= {"query": f"{words} what is the number {n}?", "query_id": f"{words[:12]}{n}"}
        for one in (*row["positive_passages"], *row["negative_passages"]):
            one |= {
                "title": words[:20],
                "text": f"{words} {one['text']} {words}",
                "docid": f"{words[:9]}-{one['docid']}",
            }
        rows.append(row)
    return listwise(folder, rows, _every_second)


def attacked(folder: Path, handler: Handler = hostile.judge, *overrides: str) -> Path:
    """Hostile text in every field that data, models, labels, and names of files, folders and models bring in."""
    source = folder.parent / f"{hostile.NAME}.jsonl"
    written(source, hostile.records())
    with source.open("a", encoding="utf-8") as file:
        file.write(f"{{{hostile.ATTACKS[0]}\n")
        file.writelines(json.dumps({"query_id": one, "query": one, one: one}) + "\n" for one in hostile.ATTACKS)
    models = [f"cascade.{tier}.judge.model={json.dumps(f'{hostile.NAME} {tier}')}" for tier in ("snippet", "versus")]
    people = written(folder.parent / "labels <script>.jsonl", hostile.labels())
    return cascaded(folder, source, handler, "budget.abstained=null", *models, *overrides, labels=people)


STATES: Mapping[str, Callable[[Path], Path]] = {
    "two tiers": two_tiers,
    "with evidence": with_evidence,
    "calibrated": calibrated,
    "untouched": untouched,
    "abstained": abstained,
    "single": single,
    "many subsets": many_subsets,
    "scripts": scripts,
    "attacked": attacked,
}
"""How to make the run of each state, in a folder that is not there yet."""

PAGES = (*STATES, "diff")


class Made:
    """The runs of all states, each made when it is first asked for."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[str, Path] = {}

    def folder(self, state: str) -> Path:
        """The folder of a state's run; "milder" is the attacked run with other verdicts and another policy."""
        if state not in self._folders:
            hostile_one = state in ("attacked", "milder")
            folder = self._root / state / (hostile.NAME if hostile_one else state)
            if state == "milder":
                attacked(folder, hostile.milder, "policy.drop=[duplicate]")
            else:
                STATES[state](folder)
            self._folders[state] = folder
        return self._folders[state]

    def page(self, name: str) -> Path:
        """A state's report, or the page of what differs between the two attacked runs."""
        if name != "diff":
            return self.folder(name) / "report.html"
        page = self._root / "diff.html"
        if not page.exists():
            write_difference(difference(self.folder("attacked"), self.folder("milder")), page)
        return page

    def report(self, name: str) -> dict[str, Any]:
        """The numbers beside a page."""
        found: dict[str, Any] = json.loads(self.page(name).with_suffix(".json").read_bytes())
        return found
