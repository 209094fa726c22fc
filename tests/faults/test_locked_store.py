"""Another process holds SQLite's write lock for half a minute."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest

from tests.faults.serving import Processes, serving
from tests.jobs.live import wait_until

HELD_S = 30.0


@contextmanager
def write_lock(path: Path) -> Generator[None]:
    connection = sqlite3.connect(path, timeout=60, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


def usage(processes: Processes) -> int:
    with sqlite3.connect(processes.data / "tuneyard.db", timeout=30) as database:
        return database.execute("SELECT coalesce(sum(requests), 0) FROM usage").fetchone()[0]


def metric(url: str, name: str) -> float:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


def refused(client: openai.OpenAI) -> openai.InternalServerError:
    with pytest.raises(openai.InternalServerError) as told:
        client.files.create(file=("a.jsonl", b'{"a": 1}\n'), purpose="fine-tune")
    return told.value


def test_a_locked_store_delays_writes_and_nothing_else(tmp_path: Path) -> None:
    with serving(tmp_path) as processes:
        engine, supervisor = processes.engine, processes.supervisor
        url = processes.service.find(r"URL +(\S+)/v1")
        num_asked = 0
        with processes.service.client() as opened:
            client = opened.with_options(max_retries=0)
            with write_lock(processes.data / "tuneyard.db"):
                deadline = time.monotonic() + HELD_S
                error = refused(client)
                while time.monotonic() < deadline:
                    assert processes.answers()
                    num_asked += 1
                    assert list(client.files.list()) == []
                    assert httpx.get(f"{url}/readyz").status_code == 200
                    time.sleep(0.5)
                assert metric(url, "tuneyard_usage_unwritten") == num_asked
            assert error.status_code == 503
            assert int(error.response.headers["retry-after"]) >= 1
            assert error.body == {
                "message": "The server cannot read or store this at the moment. Please retry.",
                "type": "service_unavailable_error",
                "param": None,
                "code": "server_is_overloaded",
            }
            client.files.create(file=("a.jsonl", b'{"a": 1}\n'), purpose="fine-tune")
        wait_until(lambda: metric(url, "tuneyard_usage_unwritten") == 0)
        assert usage(processes) == num_asked
        assert (processes.engine.pid, processes.supervisor.pid) == (engine.pid, supervisor.pid)
        log = (processes.data / "logs" / "supervisor.log").read_text()
        assert log.count("failed, and tried again") <= 4, "each kind of fault once"
