"""Workers on other hosts over TLS: a worker that cannot prove who it is gets no token, and nothing
is sent in clear to another host unless the operator says so."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.config import ModelEntry
from tests.jobs.live import ROOT, running_gateway, running_supervisor, wait_until
from tests.pool.conftest import Authority, RemoteHost, remote_entry, scripted, wait_connected
from tests.pool.test_remote import ask

StartHost = Callable[..., RemoteHost]


def entry_for(folder: Path, host: RemoteHost, entry: dict[str, Any], ca: Path) -> dict[str, Any]:
    """Of the service, which asks in TLS whatever the worker speaks."""
    made = remote_entry(folder, [host], entry)
    address = host.address.replace("tcp:", "tls:")
    return {**made, "addresses": [address], "ca_file": str(ca)}


def test_a_worker_answers_and_takes_adapters_over_tls(
    tmp_path: Path, start_host: StartHost
) -> None:
    (tmp_path / "style").mkdir()
    (tmp_path / "style" / "adapter_config.json").write_text("{}")
    weights = bytes(range(256)) * 8192
    (tmp_path / "style" / "adapter_model.safetensors").write_bytes(weights)
    entry = scripted([{"text": "I am {adapter}."}])
    authority = Authority(tmp_path)
    host = start_host(entry, *authority.options("127.0.0.1"))
    adapters = [{"id": "my-style", "path": "style"}]
    service = entry_for(tmp_path, host, {**entry, "adapters": adapters}, authority.file)
    with running_gateway(tmp_path, {"models": [service]}) as gateway, running_supervisor(tmp_path):
        wait_connected(gateway, 1)
        assert ask(gateway.client(), "tiny") == "I am base."
        wait_until(lambda: len(host.stored) == 1, 60)
        assert (host.stored[0] / "adapter_model.safetensors").read_bytes() == weights
        assert (ask(gateway.client(), "my-style") or "").startswith("I am my-style@")


@pytest.mark.parametrize("fault", ["another host's", "nobody's", "none"])
def test_a_worker_that_cannot_prove_who_it_is_is_not_used(
    tmp_path: Path, start_host: StartHost, fault: str
) -> None:
    entry = scripted([{"text": "quick"}])
    mine, other = Authority(tmp_path), tmp_path / "other"
    other.mkdir()
    options = {
        "another host's": lambda: mine.options("gpu2.example"),
        "nobody's": lambda: Authority(other).options("127.0.0.1"),
        "none": lambda: [],
    }[fault]()
    host = start_host(entry, *options)
    service = entry_for(tmp_path, host, entry, mine.file)
    words = {"another host's": "mismatch", "nobody's": "verify failed", "none": "tiny"}[fault]
    with running_gateway(tmp_path, {"models": [service]}) as gateway, running_supervisor(tmp_path):
        log = tmp_path / "supervisor.log"
        wait_until(lambda: "engine not usable" in log.read_text() and words in log.read_text(), 60)
        ready = httpx.get(f"{gateway.url}/readyz")
        assert ready.json()["missing"] == ["engine of tiny"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "could be read on the way"),
        (["--tls-key", "token"], "--tls-key needs --tls-cert"),
        (["--tls-cert", "token"], "cannot be used"),
        (["--insecure", "--tls-cert", "token"], "contradict each other"),
    ],
)
def test_listening_for_other_hosts_needs_a_certificate(
    tmp_path: Path, options: list[str], message: str
) -> None:
    (tmp_path / "token").write_text("secret")
    (tmp_path / "tuneyard.yaml").write_text("models: [{id: m, path: ., engine: scripted}]")
    command = [sys.executable, "-m", "server.cli", "engine", "--model", "m", "--token-file"]
    done = subprocess.run(
        [*command, "token", "--listen", "tcp:0.0.0.0:7001", *options],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "COLUMNS": "300"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert message in done.stdout


def test_an_entry_sends_no_token_in_clear_unless_it_says_so() -> None:
    plain: dict[str, Any] = {"id": "m", "path": "/m", "token_file": "t"}
    for address in ("tcp:gpu2:7001", "tcp:10.0.0.2:7001", "tcp:[fd00::2]:7001"):
        with pytest.raises(ValueError, match="in clear"):
            ModelEntry(**plain, addresses=[address])
        assert ModelEntry(**plain, addresses=[address], insecure=True)
    for address in ("tcp:127.0.0.3:7001", "tcp:[::1]:7001", "tcp:localhost:1", "tls:gpu2:7001"):
        assert ModelEntry(**plain, addresses=[address])
    with pytest.raises(ValueError, match="ca_file is for tls"):
        ModelEntry(**plain, addresses=["tcp:127.0.0.1:1"], ca_file="ca.pem")
    with pytest.raises(ValueError, match="not tls:host:port"):
        ModelEntry(**plain, addresses=["http:gpu2:7001"])
