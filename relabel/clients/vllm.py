"""vLLM servers over HTTP: what an OpenAI-compatible server offers, and what only vLLM does.

Several servers that serve the same models share the requests, those of one query at one of them, whose prefix cache
then holds how they begin. `/metrics` tells how it goes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace

import aiohttp
from yarl import URL

from relabel.clients.openai import OpenAIClient
from relabel.clients.server import Server
from relabel.clients.target import target_of
from relabel.records import Reply, Request
from relabel.settings import VLLMClientSettings

_EVERY = 2.0
"""Seconds between two looks at a server's metrics."""

_METRIC = re.compile(r"^vllm:(\w+?)(?:_total)?(?:\{[^}]*\})? ([0-9.e+-]+)$", re.MULTILINE)
_WATCHED = ("num_requests_running", "num_requests_waiting", "prefix_cache_hits", "prefix_cache_queries")


class VLLMClient(OpenAIClient):
    """One or several vLLM servers that serve the same models."""

    def __init__(self, name: str, settings: VLLMClientSettings, say: Callable[[str], None]) -> None:
        urls = [settings.base_url] if isinstance(settings.base_url, str) else settings.base_url or []
        targets = [target_of(name, url, settings.api_key_env) for url in dict.fromkeys(urls)]
        servers = [Server(name, target, settings, say) for target in targets]
        self._prepare(name, settings, say, servers)
        self._roots = [URL(target.url.removesuffix("/v1/chat/completions")) for target in targets]
        self._engines: dict[str, str] = {}
        self._seen: dict[URL, dict[str, float]] = {}

    async def open(self) -> None:
        """Make the connection pool, and begin to look at the metrics."""
        await super().open()
        self._looking = [asyncio.create_task(self._look(root)) for root in self._roots]

    async def close(self) -> None:
        """Close all connections."""
        for task in self._looking:
            task.cancel()
        await super().close()

    async def send(self, request: Request, near: str = "") -> Reply:
        """The reply, with the version of vLLM that gave it, as far as the servers tell theirs."""
        reply = await super().send(request, near)
        return replace(reply, engine=" / ".join(sorted(set(self._engines.values()))))

    def pulse(self) -> str:
        """Requests that run and that wait, and the share of prompt tokens that came from the prefix cache."""
        sums = {name: sum(seen.get(name, 0.0) for seen in self._seen.values()) for name in _WATCHED}
        if not self._seen:
            return ""
        words = f"{sums['num_requests_running']:.0f} running, {sums['num_requests_waiting']:.0f} waiting"
        if sums["prefix_cache_queries"]:
            words += f", {sums['prefix_cache_hits'] / sums['prefix_cache_queries']:.0%} of prompt tokens cached"
        return words

    async def _look(self, root: URL) -> None:
        """Ask a server for its version and, again and again, for its metrics; one that tells neither is left alone."""
        try:
            version = (await self._get(root / "version")).partition('"version":"')[2].partition('"')[0]
            if re.fullmatch(r"[\w.+-]{1,64}", version):
                self._engines[str(root)] = f"vllm {version}"
            while True:
                text = await self._get(root / "metrics")
                values = dict.fromkeys(_WATCHED, 0.0)
                for name, value in _METRIC.findall(text):
                    if name in values:
                        values[name] += float(value)
                self._seen[root] = values
                await asyncio.sleep(_EVERY)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            self._seen.pop(root, None)

    async def _get(self, url: URL) -> str:
        timeout = aiohttp.ClientTimeout(total=10)
        headers = {"Accept": "*/*"}
        async with self.session.get(url, timeout=timeout, headers=headers, raise_for_status=True) as response:
            return (await response.content.read(1 << 20)).decode(errors="replace")
