"""The dataset card: the hub's metadata, true to what lies beside it; and the set on its way to the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml
from huggingface_hub import DatasetCard

from relabel.errors import ConfigError, RunStopped
from relabel.export import export_run
from relabel.loading import load_config
from relabel.report.card import size_of
from relabel.runs import run
from relabel.testing import FakeHub
from tests.conftest import tevatron


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
    assert f"{report['candidates']['in']} mined negatives of 5 instances" in text
    assert report["source"]["sha256"] in text
    recipe = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    again = load_config("quickstart")
    assert [tier["name"] for tier in recipe["cascade"]] == [tier.name for tier in again.cascade]
    assert recipe["policy"] == again.policy.model_dump(exclude_defaults=True)


def test_one_file_has_its_card_beside_it(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "README.md").write_text("Mine.")
    export_run(folder, to=tmp_path / "data" / "train.jsonl")
    card = metadata(tmp_path / "data" / "train.README.md")
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
