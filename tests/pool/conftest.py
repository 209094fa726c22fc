"""A service with its supervisor, and engine workers of "other hosts": processes with a directory of
their own, on loopback addresses of their own, that share no file with the service."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
import yaml

from server.store import Store, open_store
from tests.jobs.live import ROOT, Gateway, wait_until
from tests.trainer.conftest import CHATML

TOKEN = "a secret of this test"


class RemoteHost:
    """`tuneyard engine` on a host of its own."""

    def __init__(self, folder: Path, host: str, entry: dict[str, Any], *options: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.data = folder / "data"
        with socket.socket() as probe:
            probe.bind((host, 0))
            self.address = f"tcp:{host}:{probe.getsockname()[1]}"
        (folder / "token").write_text(TOKEN + "\n")
        config = {"data": str(self.data), "models": [entry]}
        (folder / "tuneyard.yaml").write_text(yaml.safe_dump(config))
        self._command = [
            *(sys.executable, "-m", "server.cli", "engine"),
            *("--config", str(folder / "tuneyard.yaml"), "--model", entry["id"]),
            *("--listen", self.address, "--token-file", str(folder / "token"), *options),
        ]
        self._log = folder / "output.log"
        self.start()

    def start(self) -> None:
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, env=env, stdout=log, stderr=log)

    @property
    def stored(self) -> list[Path]:
        """Adapters that were sent here."""
        folder = self.data / "hosted-adapters"
        return [path for path in folder.glob("*") if not path.name.startswith(".")]

    def worker_pid(self) -> int:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return int(children.read_text().split()[0])

    def kill_worker(self) -> None:
        os.kill(self.worker_pid(), signal.SIGKILL)

    def end(self) -> None:
        """Twice: requests under way are not waited for."""
        for _ in range(2):
            if self.process.poll() is None:
                self.process.terminate()
                try:
                    self.process.wait(1)
                except subprocess.TimeoutExpired:
                    continue
        self.process.kill()
        self.process.wait()


@pytest.fixture
def start_host(tmp_path: Path) -> Generator[Callable[..., RemoteHost]]:
    hosts: list[RemoteHost] = []

    def start(entry: dict[str, Any], *options: str) -> RemoteHost:
        number = len(hosts) + 1
        hosts.append(RemoteHost(tmp_path / f"host{number}", f"127.0.0.{number}", entry, *options))
        return hosts[-1]

    yield start
    for host in hosts:
        host.end()


def remote_entry(
    folder: Path, hosts: list[RemoteHost], entry: dict[str, Any], replicas: int = 0
) -> dict[str, Any]:
    """The service's entry for a model that `hosts` serve."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "token").write_text(TOKEN)
    addresses = [host.address for host in hosts]
    return {**entry, "replicas": replicas, "addresses": addresses, "token_file": "token"}


def scripted(replies: list[dict[str, Any]], model: str = "tiny", **entry: Any) -> dict[str, Any]:
    settings = {"replies": replies, "chat_templates": {"default": CHATML}}
    return {"id": model, "path": "/nowhere", "engine": "scripted", "settings": settings, **entry}


def metric(gateway: Gateway, name: str, **labels: str) -> float:
    """Sum of a metric over all lines that have the labels."""
    total = 0.0
    for line in httpx.get(f"{gateway.url}/metrics").text.splitlines():
        if line.startswith((f"{name}{{", f"{name} ")) and all(
            f'{label}="{value}"' in line for label, value in labels.items()
        ):
            total += float(line.rpartition(" ")[2])
    return total


def num_connected(gateway: Gateway) -> int:
    text = httpx.get(f"{gateway.url}/metrics").text
    return sum(line.startswith("tuneyard_engine_running{") for line in text.splitlines())


def wait_connected(gateway: Gateway, count: int, timeout_s: float = 60) -> None:
    wait_until(lambda: num_connected(gateway) == count, timeout_s)


def on_store(gateway: Gateway, work: Callable[[Store], Awaitable[None]]) -> None:
    """Works on the service's store from beside it."""

    async def run() -> None:
        store = await open_store(f"sqlite+aiosqlite:///{gateway.data / 'tuneyard.db'}")
        try:
            await work(store)
        finally:
            await store.close()

    asyncio.run(run())


class Authority:
    """Makes certificates for hosts, and the file that vouches for them."""

    def __init__(self, folder: Path) -> None:
        self._authority = trustme.CA()
        self._folder = folder
        self.file = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.file))

    def options(self, host: str) -> list[str]:
        """Of `tuneyard engine`, for a worker at that address."""
        made = self._authority.issue_cert(host)
        cert, key = self._folder / f"{host}.pem", self._folder / f"{host}.key"
        cert.write_bytes(b"".join(part.bytes() for part in made.cert_chain_pems))
        made.private_key_pem.write_to_path(str(key))
        return ["--tls-cert", str(cert), "--tls-key", str(key)]
