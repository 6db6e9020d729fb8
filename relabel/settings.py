"""The base of all settings; the settings of clients: who answers, where, and how fast; and those of the card."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

_UNUSABLE = re.compile("[\0\ud800-\udfff]")
"""NUL, and halves of surrogate pairs."""


def _texts(value: object) -> Iterator[str]:
    """All texts that a setting holds, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for item in (*value, *(value.values() if isinstance(value, dict) else ())):
            yield from _texts(item)


class Settings(BaseModel):
    """The base of all settings: frozen, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, given: Any) -> Any:
        if isinstance(given, dict):
            for key in given:
                if key not in cls.model_fields:
                    near = difflib.get_close_matches(str(key), cls.model_fields, n=1, cutoff=0.5)
                    known = f"did you mean {near[0]!r}?" if near else f"expected {', '.join(cls.model_fields)}"
                    raise ValueError(f"unknown key {str(key)!r}; {known}")
        return given

    @model_validator(mode="after")
    def _usable(self) -> Self:
        for key, value in self:
            if isinstance(value, int) and abs(value) >> 63:
                raise ValueError(f"{key} is beyond 63 bits; nothing here needs so large a number")
            for text in _texts(value):
                if _UNUSABLE.search(text):
                    raise ValueError(f"{key} holds a character that no file and no request can hold: {text!a}")
        return self


class ServerSettings(Settings):
    """How a server over HTTP may be asked."""

    api_key_env: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    concurrency: int = Field(256, ge=1)
    requests_per_minute: float | None = Field(None, gt=0)
    tokens_per_minute: float | None = Field(None, gt=0)
    timeout: float = Field(600, gt=0)
    max_attempts: int = Field(8, ge=1)


class OpenAIClientSettings(ServerSettings):
    """A server that speaks the OpenAI chat completions API, over HTTP. Azure with `azure_endpoint`."""

    kind: Literal["openai"]
    base_url: str | None = None
    azure_endpoint: str | None = None
    api_version: str | None = None


class VLLMClientSettings(ServerSettings):
    """vLLM: servers that run (`base_url`, one or several that serve the same models), or an engine that is started here
    (`model`) by the Python that has vLLM in it.

    The engine's settings have vLLM's own names; `engine_args` holds any others. `concurrency` is for each server.
    """

    kind: Literal["vllm"]
    base_url: str | list[str] | None = None
    model: str | None = None
    revision: str | None = None
    dtype: str = "auto"
    quantization: str | None = None
    tensor_parallel_size: int = Field(1, ge=1)
    max_model_len: int | None = Field(None, ge=1)
    gpu_memory_utilization: float | None = Field(None, gt=0, le=1)
    engine_args: dict[str, Any] = {}
    python: str | None = None

    @model_validator(mode="after")
    def _one_or_the_other(self) -> Self:
        if (self.base_url is None) == (self.model is None):
            raise ValueError("set base_url for servers that run, or model for an engine that is started here, not both")
        if self.base_url in ("", []):
            raise ValueError("base_url is empty")
        other = _OF_SERVERS if self.base_url is None else _OF_ENGINES
        for name in sorted(other & self.model_fields_set):
            if getattr(self, name) != type(self).model_fields[name].default:
                place = "an engine that is started here" if self.base_url is None else "servers that run already"
                raise ValueError(f"{name} means nothing to {place}")
        if "hf_token" in self.engine_args:
            raise ValueError("engine_args may not set hf_token: name it in the environment, as HF_TOKEN")
        if named := sorted(self.engine_args.keys() & {"model", *_OF_ENGINES}):
            raise ValueError(f"engine_args may not set {', '.join(named)}: these are settings of their own")
        return self

    def engine_arguments(self) -> dict[str, Any]:
        """What vLLM's engine is started with."""
        named = {name: getattr(self, name) for name in ("model", *sorted(_OF_ENGINES - {"engine_args", "python"}))}
        return self.engine_args | {name: value for name, value in named.items() if value is not None}


_OF_SERVERS = {"api_key_env", "requests_per_minute", "tokens_per_minute", "timeout", "max_attempts"}
_OF_ENGINES = {
    "revision",
    "dtype",
    "quantization",
    "tensor_parallel_size",
    "max_model_len",
    "gpu_memory_utilization",
    "engine_args",
    "python",
}


class BatchClientSettings(Settings):
    """A server with OpenAI's Batch API; with `submit: false`, files that somebody else has answered.

    A file holds at most `requests_per_file` and `megabytes_per_file` (of 10^6 bytes). Batches are looked after every
    `poll_every` seconds. What is submitted costs the `discount` less than `prices` say.
    """

    kind: Literal["batch"]
    base_url: str | None = None
    api_key_env: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    submit: bool = True
    requests_per_file: int = Field(50_000, ge=1, le=50_000)
    megabytes_per_file: float = Field(200, gt=0, le=200)
    poll_every: float = Field(60, gt=0)
    timeout: float = Field(600, gt=0)
    discount: float = Field(0.5, ge=0, lt=1)


class ReplayClientSettings(Settings):
    """Replies recorded in another run's ledger; nothing is ever sent."""

    kind: Literal["replay"]
    path: str
    concurrency: int = Field(64, ge=1)


ClientSettings = Annotated[
    OpenAIClientSettings | VLLMClientSettings | BatchClientSettings | ReplayClientSettings, Field(discriminator="kind")
]


def _listed(given: Any) -> Any:
    return [given] if isinstance(given, str) else given


Words = Annotated[list[str], BeforeValidator(_listed)]


class CardSettings(Settings):
    """Metadata of the dataset card that only its publisher knows, in the words of the Hugging Face hub."""

    pretty_name: str | None = None
    license: str | list[str] | None = None
    license_name: str | None = None
    license_link: str | None = None
    language: str | list[str] | None = None
    multilinguality: Words | None = None
    source_datasets: Words | None = None
    task_categories: Words | None = None
    task_ids: Words | None = None
    tags: Words | None = None
    annotations_creators: Words | None = None
    language_creators: Words | None = None
    paperswithcode_id: str | None = None
    viewer: bool | None = None
    extra_gated_prompt: str | None = None
