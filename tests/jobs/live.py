"""A gateway of its own process, on a free port, over an empty data directory."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import yaml
from openai import OpenAI

ROOT = Path(__file__).parents[2]
GUARD_S = 120.0
KEY = "sk-test-of-the-first-project"
OTHER_KEY = "sk-test-of-another-project"

_SERVE = """
import asyncio, os, sys
from pathlib import Path
import uvicorn
from server.app import create_app
from server.config import load_config
from server.direct.protocol import server_config
from server.store import open_store
config = load_config(Path(sys.argv[1]))
async def prepare():
    config.data.mkdir(parents=True, exist_ok=True)
    store = await open_store(config.database_url)
    from server.first_key import ensure_first_key
    await ensure_first_key(store, config.data, sys.argv[2])
    other = await store.projects.ensure("proj_other", "Other")
    await store.keys.add(other.id, sys.argv[3], "other")
    for entry in config.models:
        await store.models.put_base(entry.id, entry.path, entry.owned_by, 1)
    await store.aliases.configure(config.aliases)
    await store.close()
asyncio.run(prepare())
settings = {"host": "127.0.0.1", "port": config.port, "log_level": "error"}
uvicorn.Server(server_config(create_app(config), **settings)).run()
"""


@dataclass(frozen=True, slots=True)
class Gateway:
    url: str
    process: subprocess.Popen[bytes]
    data: Path
    clients: list[OpenAI] = field(default_factory=list[OpenAI])
    """Those that were made, kept: a client that is collected unclosed may warn in another test."""

    @property
    def database_url(self) -> str:
        return f"sqlite+aiosqlite:///{self.data / 'tuneyard.db'}"

    def client(self, key: str = KEY, *, strict: bool = True) -> OpenAI:
        """Closed with the gateway, if not before."""
        client = OpenAI(
            api_key=key,
            base_url=f"{self.url}/v1",
            max_retries=0,
            timeout=60,
            _strict_response_validation=strict,
        )
        self.clients.append(client)
        return client

    def http(self, key: str = KEY) -> httpx.Client:
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.Client(base_url=f"{self.url}/v1", headers=headers, timeout=60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running_gateway(
    folder: Path, settings: dict[str, object] | None = None, prefix: tuple[str, ...] = ()
) -> Generator[Gateway]:
    """`prefix` is put before the command line (`prlimit ...`)."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "data"
    port = free_port()
    config = {"port": port, "data": str(data), **(settings or {})}
    path = folder / "tuneyard.yaml"
    path.write_text(yaml.safe_dump(config))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"}
    command = [*prefix, sys.executable, "-c", _SERVE, str(path), KEY, OTHER_KEY]
    process = subprocess.Popen(command, env=env)
    gateway = Gateway(f"http://127.0.0.1:{port}", process, data)
    try:
        wait_until(lambda: answers(gateway.url, process))
        yield gateway
    finally:
        for client in gateway.clients:
            client.close()
        process.kill()
        process.wait()


def answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "the gateway ended"
    try:
        return httpx.get(f"{url}/healthz").status_code == 200
    except httpx.TransportError:
        return False


def wait_until(condition: object, timeout_s: float = GUARD_S, interval_s: float = 0.1) -> None:
    """Nothing is concluded from how long it takes: the limit ends a test that hangs."""
    assert callable(condition)
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(interval_s)


@contextmanager
def running_supervisor(folder: Path) -> Generator[subprocess.Popen[bytes]]:
    """On the configuration and data of the gateway that was started in `folder`."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "server.supervisor", "--config"]
    with (folder / "supervisor.log").open("ab") as log:
        process = subprocess.Popen([*command, str(folder / "tuneyard.yaml")], env=env, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(GUARD_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def trainers_in(data: Path) -> list[psutil.Process]:
    """Living trainers of the jobs of a data directory."""
    found: list[psutil.Process] = []
    for note in data.glob("jobs/*/pid"):
        pid, started = note.read_text().split()
        with suppress(psutil.Error):
            process = psutil.Process(int(pid))
            same = f"{process.create_time():.2f}" == started
            if same and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def engines_of(supervisor: int) -> list[psutil.Process]:
    """Engine workers; one names itself once it runs, and one that is ending has no name."""
    found: list[psutil.Process] = []
    for process in psutil.Process(supervisor).children():
        with suppress(psutil.Error):
            command = " ".join(process.cmdline())
            if "workers.engine" in command or "tuneyard engine" in command:
                found.append(process)
    return found


def warm_trainers_of(supervisor: int) -> list[psutil.Process]:
    """Trainers that were started ahead of their job, at work or not."""
    found: list[psutil.Process] = []
    for process in psutil.Process(supervisor).children():
        with suppress(psutil.Error):
            if "--wait" in process.cmdline():
                found.append(process)
    return found


@dataclass(frozen=True, slots=True)
class Service:
    gateway: Gateway
    supervisor: subprocess.Popen[bytes]
    folder: Path
