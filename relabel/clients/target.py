"""Where to post and with which key: from the settings, and from the environment variables of the `openai` package."""

from __future__ import annotations

import os
import re
from base64 import b64encode
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import quote, urlencode

from yarl import URL

from relabel.errors import ConfigError
from relabel.settings import OpenAIClientSettings
from relabel.text import without_credentials

_LEAST_SECRET = 8
"""A shorter key is a dummy for a local server: masking it would only garble what is said."""

OPENAI_URL = "https://api.openai.com/v1"


@dataclass(frozen=True)
class Target:
    """Where to post, and with which headers; the `secrets` among these must never be shown."""

    url: str
    headers: dict[str, str]
    secrets: tuple[str, ...]

    @cached_property
    def _told(self) -> list[str]:
        """The secrets as somebody may repeat them, in small letters: plain, percent-encoded, in base64."""
        long = [secret for secret in self.secrets if len(secret) >= _LEAST_SECRET]
        forms = {
            form.lower() for one in long for form in (one, quote(one), quote(one, safe=""), _base64(one).rstrip("="))
        }
        return sorted(forms, key=len, reverse=True)

    def masked(self, text: str) -> str:
        """What a server said, with `***` in the place of every secret that it repeats."""
        lowered = text.lower()
        for form in self._told:
            if form in lowered:
                text = re.sub(re.escape(form), "***", text, flags=re.IGNORECASE)
        return text

    def url_for(self, model: str) -> str:
        """The address for a model: Azure has one for each deployment."""
        return self.url.replace("{model}", quote(model, safe="!$&'()*+,;=:@"))

    @property
    def endpoint(self) -> str:
        """The address, as it may be shown."""
        return URL(self.url).with_query(None).human_repr()


def find_target(name: str, settings: OpenAIClientSettings) -> Target:
    """The target of the OpenAI client with this name. Raises ConfigError."""
    if settings.azure_endpoint is not None:
        return _checked(name, _azure(name, settings))
    base = settings.base_url or os.environ.get("OPENAI_BASE_URL", "").strip() or OPENAI_URL
    return _checked(name, _at(name, base, settings.api_key_env, "OPENAI_API_KEY"))


def target_of(name: str, base_url: str, api_key_env: str | None) -> Target:
    """The target at an address, with the key that is named and no other. Raises ConfigError."""
    return _checked(name, _at(name, base_url, api_key_env, None))


def _checked(name: str, target: Target) -> Target:
    try:
        host = URL(target.url).host
    except ValueError:
        host = None
    if not host or not target.url.startswith(("http://", "https://")):
        raise ConfigError(
            f"client {name!r}: the address is {without_credentials(target.url)!r}, expected http://host… or https://host…"
        )
    if host == URL(OPENAI_URL).host and not target.headers:
        raise ConfigError(
            f"client {name!r}: no key for {OPENAI_URL}. Set OPENAI_API_KEY, or name another variable with api_key_env, "
            "or point OPENAI_BASE_URL at a server of your own."
        )
    return target


def _at(name: str, base: str, api_key_env: str | None, default: str | None) -> Target:
    key = _key(name, api_key_env, default)
    url = f"{base.rstrip('/')}/chat/completions"
    if "://***@" in base:
        raise ConfigError(f"client {name!r}: base_url holds *** in the place of its user and password; name them")
    with suppress(ValueError):  # no URL at all: whoever checks it says so
        if (address := URL(url)).user is not None or address.password is not None:
            return _with_password(name, api_key_env, address, key)
    if key is None:
        return Target(url, {}, ())
    variables = {"OpenAI-Organization": "OPENAI_ORG_ID", "OpenAI-Project": "OPENAI_PROJECT_ID"} if default else {}
    account = {header: os.environ[variable] for header, variable in variables.items() if os.environ.get(variable)}
    return Target(url, {"Authorization": f"Bearer {key}", **account}, (key,))


def _with_password(name: str, api_key_env: str | None, url: URL, key: str | None) -> Target:
    """A user and password in the address take the place of a key that is merely set in the environment."""
    if api_key_env is not None:
        raise ConfigError(
            f"client {name!r}: base_url holds a user and password, and api_key_env names a key; a request can carry "
            "one of them"
        )
    basic = _base64(f"{url.user or ''}:{url.password or ''}")
    return Target(str(url.with_user(None)), {"Authorization": f"Basic {basic}"}, (url.password or "", basic, key or ""))


def _azure(name: str, settings: OpenAIClientSettings) -> Target:
    from openai import AsyncAzureOpenAI

    key = _key(name, settings.api_key_env, "AZURE_OPENAI_API_KEY")
    version = settings.api_version or os.environ.get("OPENAI_API_VERSION")
    if key is None or not version or settings.azure_endpoint is None:
        raise ConfigError(f"client {name!r}: Azure needs api_version, and a key in AZURE_OPENAI_API_KEY or api_key_env")
    azure = AsyncAzureOpenAI(azure_endpoint=settings.azure_endpoint, api_version=version, api_key=key)
    base, query = str(azure.base_url).rstrip("/"), urlencode(azure.default_query)
    return Target(f"{base}/deployments/{{model}}/chat/completions?{query}", {"api-key": key}, (key,))


def _base64(text: str) -> str:
    return b64encode(text.encode()).decode()


def _key(name: str, variable: str | None, default: str | None) -> str | None:
    named = variable or default
    key = (os.environ.get(named, "").strip() if named else "") or None
    if variable is not None and key is None:
        raise ConfigError(f"client {name!r}: api_key_env names {variable}, which is not set")
    if key is not None and not (key.isascii() and key.isprintable()):
        raise ConfigError(f"client {name!r}: the key in {named} holds characters that no key can hold")
    return key
