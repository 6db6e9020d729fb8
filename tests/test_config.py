"""Mistakes are named, with what would have been right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from relabel.config import Config, PolicySettings
from relabel.errors import ConfigError
from relabel.loading import find_config, load_config, parse, yaml_mapping
from relabel.resources import shipped
from tests.conftest import settings

ALIASES = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 10}]\n" for n in range(1, 12))


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump(settings("train.jsonl")), encoding="utf-8")
    return path


@pytest.mark.parametrize("preset", sorted(path.name for path in shipped("configs").glob("*.yaml")))
def test_every_preset_is_valid_and_is_found_from_any_folder(
    preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (preset, f"configs/{preset}", preset.removesuffix(".yaml")):
        assert load_config(name).output.dir == f"outputs/{preset.removesuffix('.yaml')}"


@pytest.mark.parametrize("policy", sorted((shipped("configs") / "policies").glob("*.yaml")))
def test_every_shipped_policy_is_valid(policy: Path) -> None:
    from relabel.folder import find_policy

    assert find_policy(policy.stem) == find_policy(str(policy))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"polcy": {}}, "unknown key 'polcy'; did you mean 'policy'?"),
        (
            {"policy": {"max_false_negative": 3}},
            "policy: unknown key 'max_false_negative'; did you mean 'max_false_neg",
        ),
        (
            {"clients": {"local": {"kind": "openai", "concurency": 3}}},
            "clients.local: unknown key 'concurency'; did you",
        ),
        ({"clients": {"local": {"kind": "smoke"}}}, "clients.local"),
        ({"clients": {"local": {"kind": "batch", "requests_per_file": 50_001}}}, "clients.local.requests_per_file: "),
        ({"clients": {"local": {"kind": "batch", "concurrency": 3}}}, "clients.local: unknown key 'concurrency'"),
        ({"clients": {}}, "tier 'cheap' names the client 'local'; clients are: none"),
        ({"policy": {"relabel": ["better"], "drop": ["better"]}}, "label 'better' leads to more than one action"),
        ({"budget": {"usd": 5}}, "budget.usd needs prices for large, small"),
        ({"cascade": []}, "cascade: "),
        ({"xyzzy": 1}, "unknown key 'xyzzy'; expected input, cascade"),
        ({"clients": {"local": {"kind": "openai", "timeout": float("inf")}}}, "clients.local.timeout: "),
        ({"clients": {"local": {"kind": "openai", "api_key_env": "sk-SECRET"}}}, "clients.local.api_key_env: "),
    ],
)
def test_a_mistake_is_named_with_its_place_and_the_nearest_valid_key(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=r"my\.yaml: ") as found:
        parse(Config, settings("train.jsonl", **change), "my.yaml")
    assert message in str(found.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("cascade.cheep.judge.model=x", "found no 'cheep'; expected one of cheap, strong"),
        ("cascade.cheap.judge.temprature=1", "unknown key 'temprature'; did you mean 'temperature'?"),
        ("cascade.cheap.escalate=null", "tier 'cheap' is not the last and has no 'escalate'"),
        ("input.path.deeper=1", "input.path is a plain value"),
        ("nonsense", "expected key.path=value"),
        ("cascade.cheap.judge.extra_body={n: 2}", "extra_body may not set n"),
        ("cascade.cheap.judge.max_tokens=200000", "leaves no room"),
        ("cascade.cheap.judge.retries=-1", "cascade.0.judge.retries: "),
        ("input.limit=9223372036854775808", "input: limit is beyond 63 bits"),
        ("cascade." + "9" * 5000 + ".name=x", "expected one of cheap, strong"),
        ("input.limit=!!timestamp x", "input.limit: input should be a valid integer"),
    ],
)
def test_an_override_that_cannot_be_applied_says_why(written: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as found:
        load_config(written, [override])
    assert message in str(found.value)


def test_overrides_reach_into_tiers_by_name_and_by_number(written: Path) -> None:
    loaded = load_config(
        written,
        ["cascade.cheap.judge.model=other", "cascade.1.judge.temperature=null", "budget.requests=7", "input.path=a=b"],
    )
    cheap, strong = (tier.judge.model_dump() for tier in loaded.cascade)
    assert (cheap["model"], strong["temperature"], loaded.budget.requests) == ("other", None, 7)
    assert loaded.input.path == "a=b"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("input: {path: a}\ninput: {path: b}\n", "line 2, column 1: not valid YAML: key 'input' stands twice"),
        ("input: [", "not valid YAML"),
        ("input: {<<: {path: a}, path: b, path: c}", "line 1, column 33: not valid YAML: key 'path' stands twice"),
        ("input:\n  limit: 2024-02-30", "line 2, column 10: not valid YAML: not a valid timestamp: "),
        ("a: !!timestamp x", "column 4: not valid YAML: not a valid timestamp: "),
        ("a: !!bool x", "column 4: not valid YAML: not a valid bool: "),
        ("a: " + "9" * 5000, "column 4: not valid YAML: not a valid int: "),
        ("[" * 1000, "not valid YAML: nested too deeply"),
        ("a: &a [*a]", "more than 1,000,000 values, with its aliases written out"),
        (ALIASES, "more than 1,000,000 values, with its aliases written out"),
        ("just words", "expected a mapping"),
        ("", "expected a mapping"),
    ],
)
def test_yaml_that_cannot_be_read_is_refused_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as found:
        load_config(path)
    assert message in str(found.value)


def test_anchors_and_merge_keys_are_understood() -> None:
    text = "a: &a {model: small, seed: 1}\nb: &b {<<: *a, seed: 2}\nc: {model: large, <<: *b}"
    assert yaml_mapping(text, "c")["b"] == {"model": "small", "seed": 2}
    assert yaml_mapping(text, "c")["c"] == {"model": "large", "seed": 2}


def test_a_run_folder_that_would_bear_no_name_is_refused(written: Path) -> None:
    odd = written.rename(written.with_name("\udcff.yaml"))
    with pytest.raises(ConfigError, match="dir holds a character that no file and no request can hold"):
        load_config(odd)


@pytest.mark.parametrize("name", ["x" * 300, "x" * 5000 + ".yaml", "a\0b", "\ud800"])
def test_a_name_that_no_file_can_have_is_that_of_no_config(name: str) -> None:
    with pytest.raises(ConfigError, match="no such config"):
        find_config(name)


def test_a_config_that_is_not_there_names_the_presets() -> None:
    with pytest.raises(ConfigError, match=r"no such config; name a YAML file, a run folder or a preset .*rlhn"):
        find_config("nowhere/config.yaml")


def test_a_relative_path_means_the_working_directory_or_else_the_configs_own_folder(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    (tmp_path / "train.jsonl").touch()
    assert load_config(written).input.path == str(tmp_path / "train.jsonl")
    (elsewhere / "train.jsonl").touch()
    assert load_config(written).input.path == str(elsewhere / "train.jsonl")


def test_one_models_name_on_two_servers_is_refused() -> None:
    given = settings("a", clients={"local": {"kind": "openai"}, "other": {"kind": "openai"}})
    for tier, client in zip(given["cascade"], ("local", "other"), strict=True):
        tier["judge"] |= {"model": "default", "client": client}
    with pytest.raises(ConfigError, match="tell the two apart with model_revision"):
        parse(Config, given, "c")
    given["cascade"][1]["judge"]["model_revision"] = "large"
    parse(Config, given, "c")


def test_what_extra_body_holds_is_made_to_be_sent() -> None:
    given = settings("a")
    given["cascade"][0]["judge"]["extra_body"] = {"logit_bias": {1234: -100}}
    assert parse(Config, given, "c").cascade[0].judge.model_dump()["extra_body"] == {"logit_bias": {"1234": -100}}
    given["cascade"][0]["judge"]["extra_body"] = {"x": 1 << 70}
    with pytest.raises(ConfigError, match="cannot be sent as JSON"):
        parse(Config, given, "c")


def test_keys_never_stand_in_a_config() -> None:
    with pytest.raises(ConfigError, match="unknown key 'api_key'; did you mean 'api_key_env'"):
        parse(Config, settings("a", clients={"local": {"kind": "openai", "api_key": "sk-secret"}}), "c")


@pytest.mark.parametrize(
    "override",
    [
        'input.path="a\\0b"',
        'cascade.cheap.judge.model="\\ud800"',
        'ledger.read=["a\\0b"]',
        'policy.drop=["\\ud800"]',
        'prices={"\\ud800": {prompt: 1, completion: 1}}',
    ],
)
def test_a_character_that_nothing_can_hold_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match="holds a character that no file and no request can hold"):
        load_config("rlhn", [override])


def test_a_grade_may_be_written_as_a_number() -> None:
    assert PolicySettings.model_validate({"relabel": [3], "drop": ["2"]}).relabel == ["3"]
    with pytest.raises(ValueError, match="valid string"):
        PolicySettings.model_validate({"relabel": [True]})


def test_samples_at_temperature_zero_are_refused() -> None:
    with pytest.raises(ConfigError, match="samples at temperature 0 are all alike"):
        load_config("arhn", ["cascade.snippet.judge.samples=3"])
