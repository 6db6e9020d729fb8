"""A real vLLM, where `tests/engines/setup` has put one; a tiny model; and a server that serves it."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HOME = Path(__file__).parents[2] / ".vllm"
PYTHON = HOME / "bin" / "python"
MODEL = HOME / "tiny"
CONTEXT = 16_384
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "OMP_NUM_THREADS": "1",
    "TORCHDYNAMO_DISABLE": "1",
}


@pytest.fixture(scope="session", autouse=True)
def vllm_there() -> Iterator[None]:
    """Skips where there is none; makes the environment fit for it where there is."""
    if not (PYTHON.exists() and MODEL.exists()):
        pytest.skip("no vLLM: tests/engines/setup installs one in .vllm/")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        yield


Serve = Callable[..., "Served"]


class Served:
    """A vLLM server in a process of its own, with the tiny model under the name `tiny`."""

    def __init__(self, log: Path, *options: str, port: int = 0) -> None:
        self.port = port or _free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"
        command = [str(PYTHON), "-m", "vllm.entrypoints.openai.api_server"]
        command += ["--model", str(MODEL), "--served-model-name", "tiny", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--dtype", "float32", "--max-model-len", str(CONTEXT), "--enforce-eager"]
        command += ["--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}', *options]
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                command, env={**os.environ, **ENVIRONMENT}, stdout=file, stderr=file, start_new_session=True
            )
        self._log = log

    def wait(self) -> None:
        """Until it answers."""
        until = time.monotonic() + 180
        while time.monotonic() < until and self.process.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=1).close()
                return
            except OSError:
                time.sleep(0.3)
        raise RuntimeError(self._log.read_text(errors="replace")[-2000:])

    def kill(self) -> None:
        """With all its processes, and no goodbye."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, 9)
        self.process.wait()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="session")
def serve(vllm_there: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Starts a server; kills those that are left at the end."""
    started: list[Served] = []

    def begin(*options: str, port: int = 0) -> Served:
        started.append(Served(tmp_path_factory.getbasetemp() / "vllm.log", *options, port=port))
        return started[-1]

    yield begin
    for one in started:
        one.kill()


@pytest.fixture(scope="session")
def served(serve: Serve) -> Served:
    """A server for all tests that do not harm it."""
    one = serve()
    one.wait()
    return one
