"""Connections that are used again, unless something came on them that nobody asked for."""

from __future__ import annotations

import select
import time
from typing import Any

import aiohttp

_REST = 0.01
"""Seconds that a connection is idle before it is used again: what comes unasked comes right behind a reply."""


class Connections(aiohttp.TCPConnector):
    """A pool that gives no connection out again on which there is something to read.

    HTTP/1.1 takes whatever comes next for the reply to the next request: after a server, or a proxy, that sends a reply
    twice, each would be taken for that of another request from then on.
    """

    async def _get(self, key: Any, traces: Any) -> Any:
        idle = self._conns.get(key)
        while idle:
            protocol, since = idle[0]
            if time.monotonic() - since < _REST:
                return None  # a new one is made
            if not _speaks(protocol):
                break
            idle.popleft()
            protocol.close()
        return await super()._get(key, traces)


def _speaks(protocol: Any) -> bool:
    """Whether something has come on an idle connection, or waits there to be read."""
    connection = protocol.transport and protocol.transport.get_extra_info("socket")
    if protocol.should_close or not connection or connection.fileno() < 0:
        return bool(protocol.should_close)
    waiting = select.poll()
    waiting.register(connection, select.POLLIN)
    return bool(waiting.poll(0))
