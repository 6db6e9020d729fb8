"""The dataset card: the hub's metadata, true to what lies beside it; and the set on its way to the hub."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import DatasetCard

from relabel.config import Config
from relabel.errors import ConfigError, RunStopped
from relabel.export import export_run, report_run
from relabel.labels import read_labels
from relabel.loading import load_config
from relabel.report.card import size_of
from relabel.resources import shipped
from relabel.runs import run
from relabel.testing import Answer, FakeHub, ReplyServer, rlhn_reply
from tests.conftest import config, settings, tevatron


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of the free screens, over a set with a copy of a positive."""
    records = [tevatron(n, subset="nq") for n in range(1, 6)]
    records[0]["negative_passages"][1]["text"] = records[0]["positive_passages"][0]["text"]
    source = tmp_path / "my | set.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    card = "output.card={license: cc-by-4.0, language: [en], tags: [mine]}"
    run(load_config("quickstart", [f"input.path={source}", card]), output=tmp_path / "run", say=lambda _: None)
    return tmp_path / "run"


def metadata(path: Path) -> dict[str, Any]:
    head = yaml.safe_load(path.read_text(encoding="utf-8").split("---\n")[1])
    assert isinstance(head, dict)
    return head


def test_the_metadata_is_what_the_hub_takes(folder: Path) -> None:
    card = DatasetCard.load(folder / "README.md")
    assert card.data.to_dict() == metadata(folder / "README.md")
    assert metadata(folder / "README.md") == {
        "annotations_creators": ["machine-generated"],
        "configs": [{"config_name": "default", "data_files": [{"path": "cleaned.jsonl", "split": "train"}]}],
        "language": ["en"],
        "license": "cc-by-4.0",
        "pretty_name": "my | set.jsonl, cleaned",
        "size_categories": ["n<1K"],
        "tags": ["mine"],
        "task_categories": ["text-retrieval", "text-ranking"],
    }


def test_whoever_loads_the_folder_gets_the_cleaned_set_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train"]
    assert loaded["train"].to_list() == [
        json.loads(line) for line in (folder / "cleaned.jsonl").read_text().splitlines()
    ]


def test_it_says_what_was_done_and_how_to_do_it_again(folder: Path) -> None:
    text = (folder / "README.md").read_text(encoding="utf-8")
    report = json.loads((folder / "report.json").read_bytes())
    judged = report["changes"]["all"]["candidates"]
    assert f"{report['candidates']['in']} mined negatives in 5 records, {judged} were judged" in text
    assert report["source"]["sha256"] in text
    recipe = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    again = load_config("quickstart")
    assert [tier["name"] for tier in recipe["cascade"]] == [tier.name for tier in again.cascade]
    assert recipe["policy"] == again.policy.model_dump(exclude_defaults=True)


def test_one_file_has_its_card_beside_it(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "README.md").write_text("Mine.")
    export_run(folder, to=tmp_path / "data" / "train.jsonl")
    card = metadata(tmp_path / "data" / "train.jsonl.README.md")
    assert card["configs"][0]["data_files"][0]["path"] == "train.jsonl"
    assert (tmp_path / "data" / "README.md").read_text() == "Mine."


@pytest.mark.parametrize(
    ("instances", "expected"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (99_999, "10K<n<100K"), (10**6, "1M<n<10M"), (10**13, "1B<n<10B")],
)
def test_sizes_are_told_in_the_hubs_words(instances: int, expected: str) -> None:
    assert size_of(instances) == expected


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
class TestToTheHub:
    def test_the_set_goes_with_its_decisions_its_report_and_its_card(self, folder: Path, hub: FakeHub) -> None:
        said: list[str] = []
        url, report = export_run(folder, to="hf://me/cleaned", say=said.append)
        assert str(url).startswith(hub.url)
        assert said == ["Made the dataset me/cleaned, private."]
        files = hub.files["me/cleaned"]["main"]
        assert {name for name in files if not name.startswith(".")} == {
            *("README.md", "cleaned.jsonl", "decisions.parquet", "report.html", "report.json", "report.md")
        }
        assert files["cleaned.jsonl"] == (folder / "cleaned.jsonl").read_bytes()
        assert files["decisions.parquet"] == (folder / "decisions.parquet").read_bytes()
        assert report["candidates"]["drop"] == 1

    def test_nothing_that_names_this_machine_leaves_it(self, folder: Path, hub: FakeHub) -> None:
        export_run(folder, to="hf://me/cleaned", say=lambda _: None)
        here = str(folder.parent).encode()
        assert not [name for name, content in hub.files["me/cleaned"]["main"].items() if here in content]

    def test_the_run_stays_as_it_was(self, folder: Path, hub: FakeHub) -> None:
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        export_run(folder, to="hf://me/cleaned", policy="{drop: [close]}", say=lambda _: None)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before

    def test_what_goes_wrong_is_said(self, folder: Path, hub: FakeHub) -> None:
        with pytest.raises(ConfigError, match="Expected hf://"):
            export_run(folder, to="hf://cleaned")
        hub.fail(403, on="create")
        with pytest.raises((ConfigError, RunStopped), match="me/cleaned"):
            export_run(folder, to="hf://me/cleaned", say=lambda _: None)
        assert hub.commits == []


class TestWhatStaysHere:
    @pytest.fixture
    def told(self, tmp_path: Path) -> Path:
        """A run with a prompt of one's own, before a server that refuses and says where it lives."""
        prompt = tmp_path / "SECRETHOME" / "mine.md"
        prompt.parent.mkdir()
        prompt.write_text((shipped("prompts") / "rlhn.md").read_text(encoding="utf-8"), encoding="utf-8")
        source = tmp_path / "train.jsonl"
        source.write_text("".join(json.dumps(tevatron(n)) + "\n" for n in range(3)), encoding="utf-8")

        def refuse(body: dict[str, Any]) -> Answer:
            error = {"error": {"code": "content_filter", "message": "see https://SECRETHOST:8443 /home/alice"}}
            return Answer(status=400, body=error)

        with ReplyServer(refuse) as server:
            given = settings(source, server.url, budget={"abstained": None})
            for tier in given["cascade"]:
                tier["judge"] |= {"prompt": str(prompt), "extra_body": {"user": "SECRETUSER"}}
            run(Config.model_validate(given), output=tmp_path / "run", say=lambda _: None)
        return tmp_path / "run"

    @pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
    def test_neither_paths_nor_what_servers_say_are_pushed(self, told: Path, hub: FakeHub) -> None:
        assert "SECRETHOST" in (told / "report.html").read_text(encoding="utf-8")
        export_run(told, to="hf://me/cleaned", say=lambda _: None)
        for name, content in hub.files["me/cleaned"]["main"].items():
            if name.endswith(".parquet"):
                content = repr(pq.read_table(io.BytesIO(content)).to_pylist()).encode()
            for secret in (b"SECRETHOME", b"SECRETHOST", b"SECRETUSER", b"alice"):
                assert secret not in content, (name, secret)

    @pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
    def test_nor_is_where_models_lie(self, tmp_path: Path, hub: FakeHub) -> None:
        home = tmp_path / "SECRETHOME" / "tiny-qwen"
        home.mkdir(parents=True)
        source = tmp_path / "train.jsonl"
        source.write_text("".join(json.dumps(tevatron(n)) + "\n" for n in range(3)), encoding="utf-8")
        with ReplyServer(lambda body: rlhn_reply(worse=[1])) as server:
            given = settings(source, server.url)
            for tier in given["cascade"]:
                tier["judge"]["model"] = str(home)
            run(Config.model_validate(given), output=tmp_path / "run", say=lambda _: None)
        export_run(tmp_path / "run", to="hf://me/cleaned", say=lambda _: None)
        files = hub.files["me/cleaned"]["main"]
        assert b"tiny-qwen" in files["README.md"]
        for name, content in files.items():
            if name.endswith(".parquet"):
                content = repr(pq.read_table(io.BytesIO(content)).to_pylist()).encode()
            assert b"SECRETHOME" not in content, name

    def test_the_card_names_the_prompt_without_its_folder(self, told: Path) -> None:
        text = (told / "README.md").read_text(encoding="utf-8")
        assert "prompt: mine.md" in text
        assert "SECRET" not in text


def test_people_are_remembered_wherever_the_set_goes(folder: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.jsonl"
    rows = [
        {"query_id": f"q{n}", "docid": f"q{n}-n{k}", "grade": int((n, k) == (1, 2))}
        for n in range(1, 6)
        for k in (1, 2, 3)
    ]
    labels.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    first = report_run(folder, read_labels(str(labels), 1))
    assert first["human"]["actions"]["drop"]["relevant"] == 1
    assert report_run(folder)["human"] == first["human"]
    _, exported = export_run(folder, to=tmp_path / "out/")
    assert exported["human"] == first["human"]
    assert "against people's labels on 15 candidates" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_reviews_are_read_wherever_the_set_goes_and_never_touched(folder: Path, tmp_path: Path) -> None:
    (folder / "reviews.jsonl").write_text('{"query_id": "q1", "docid": "q1-n2", "relevant": true}\n')
    (tmp_path / "out").mkdir()
    own = '{"query_id": "q1", "docid": "q1-n1", "relevant": false}\n'
    (tmp_path / "out" / "reviews.jsonl").write_text(own)
    for _ in range(2):
        _, exported = export_run(folder, to=tmp_path / "out/")
        assert exported["human"]["matched"] == 2
    assert report_run(tmp_path / "out")["human"]["matched"] == 2
    assert (tmp_path / "out" / "reviews.jsonl").read_text() == own


def test_labels_stay_with_a_run_when_it_moves_and_when_their_file_does(folder: Path, tmp_path: Path) -> None:
    labels = {("q1", "q1-n2"): True}
    report_run(folder, labels)
    moved = folder.rename(tmp_path / "elsewhere")
    assert report_run(moved)["human"]["matched"] == 1
    before = (moved / "decisions.parquet").stat().st_mtime_ns
    (moved / "people.jsonl").unlink()
    summary = run(moved, say=lambda _: None)
    assert summary.report is not None
    assert (summary.unchanged, summary.report["human"]) == (True, None)
    assert (moved / "decisions.parquet").stat().st_mtime_ns == before, "labels change no decision"


def test_reviews_that_cannot_be_read_stop_nothing_but_are_said(folder: Path) -> None:
    (folder / "reviews.jsonl").write_text("garbage\n")
    report = report_run(folder)
    assert report["human"] is None
    (people,) = [one for one in report["checks"] if one["check"] == "people agree"]
    assert people["status"] == "look"
    assert "reviews.jsonl, line 1" in people["says"]
    export_run(folder)


def test_a_partial_set_says_so_first(tmp_path: Path) -> None:
    source = tmp_path / "train.jsonl"
    source.write_text("".join(json.dumps(tevatron(n)) + "\n" for n in range(3)), encoding="utf-8")
    with ReplyServer(lambda body: rlhn_reply()) as server:
        stopped = run(config(source, server.url, budget={"requests": 1}), output=tmp_path / "run", say=lambda _: None)
    assert stopped.report is None
    _, report = export_run(tmp_path / "run", partial=True)
    assert report["changes"]["all"]["candidates"] == 3
    text = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert text.index("**Incomplete:** 6 of 9 candidates") < text.index("A training set for")


class TestWhatIsNotOverwritten:
    def test_a_set_may_be_called_like_one_of_our_own_files(self, folder: Path, tmp_path: Path) -> None:
        for name in ("quarantine.jsonl", "reviews.jsonl", "decisions.parquet"):
            export_run(folder, to=tmp_path / "out" / name)
            assert len(datasets.Dataset.from_list(read(tmp_path / "out" / name))) == 5

    def test_the_runs_own_files_stay(self, folder: Path) -> None:
        with pytest.raises(ConfigError, match="among the run's own files"):
            export_run(folder, to=folder / "log.jsonl")

    def test_a_readme_of_ones_own_stays(self, folder: Path) -> None:
        (folder / "README.md").write_text("My notes.")
        for again in (export_run, report_run):
            with pytest.raises(ConfigError, match="was not written by relabel"):
                again(folder)
        assert (folder / "README.md").read_text() == "My notes."

    def test_nor_is_one_beside_a_file(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl.README.md").write_text("My notes.")
        with pytest.raises(ConfigError, match="was not written by relabel"):
            export_run(folder, to=tmp_path / "a.jsonl")
        assert not (tmp_path / "a.jsonl").exists()

    @pytest.mark.parametrize("place", ["https://hub/me/x", "hf:/me/x", "HF://me/x", " hf://me/x", "s3:/x", "a\udcffb"])
    def test_what_looks_like_an_address_is_refused(self, folder: Path, place: str) -> None:
        with pytest.raises(ConfigError, match="expected a file, a folder, or hf://"):
            export_run(folder, to=place)

    def test_a_page_that_was_cut_off_is_written_again(self, folder: Path) -> None:
        page = folder / "report.html"
        whole = page.read_bytes()
        page.write_bytes(whole[:1000])
        run(folder, say=lambda _: None)
        assert page.read_bytes() == whole

    def test_damaged_decisions_are_derived_again(self, folder: Path) -> None:
        path = folder / "decisions.parquet"
        whole = path.read_bytes()
        path.write_bytes(bytes(len(whole)))
        report_run(folder)
        assert path.read_bytes() == whole


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return list(pq.read_table(path).to_pylist())
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("given", "said"),
    [("{licence: mit}", "did you mean 'license'"), ("{configs: 3}", "unknown key"), ("{self: x}", "self")],
)
def test_metadata_that_the_hub_does_not_know_is_refused(given: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config("quickstart", [f"output.card={given}"])
