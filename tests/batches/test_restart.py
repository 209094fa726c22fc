"""A gateway that is killed amid a batch, and the command that runs one."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.batches.conftest import create, line, rows, until
from tests.gateway.conftest import MODEL, Worker, put_engine, start_worker
from tests.jobs.live import KEY, ROOT, running_gateway

SETTINGS: dict[str, object] = {
    "models": [{"id": MODEL, "path": "/nowhere", "engine": "scripted", "template": "qwen3"}],
    "limits": {"batch_lines_at_once": 4},
}
REPLIES: list[dict[str, Any]] = [{"contains": "say", "tokens": ["Hello"], "first_token_ms": 100}]


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    started = start_worker(tmp_path_factory.mktemp("bw"), "engine", REPLIES)
    yield started
    started.stop()


def test_a_killed_gateway_loses_no_line_and_runs_none_that_was_counted_again(
    tmp_path: Path, worker: Worker
) -> None:
    lines = [line(f"n{n}", "say it") for n in range(80)]
    with running_gateway(tmp_path, SETTINGS) as gateway:
        asyncio.run(put_engine(gateway.database_url, worker))
        with gateway.client() as client:
            made = create(client, lines)
            seen = until(
                client, made.id, lambda b: bool(b.request_counts and b.request_counts.completed)
            )
            assert seen.status == "in_progress"
    journal = tmp_path / "data" / "batches" / made.id
    text = journal.read_bytes()
    whole = text[: text.rindex(b"\n") + 1].splitlines()
    before = {row["id"] for row in (json.loads(one.split(b" ", 7)[7]) for one in whole)}
    assert 0 < len(before) < 80
    journal.write_bytes(text + b'79 1 0 3 0 1 0 {"id": ')
    with running_gateway(tmp_path, SETTINGS) as gateway, gateway.client() as client:
        ended = until(client, made.id)
        assert ended.status == "completed"
        output = rows(client, ended.output_file_id)
        assert set(output) == {entry["custom_id"] for entry in lines}
        assert before <= {row["id"] for row in output.values()}
        _run_the_command(tmp_path, gateway.url)


def _run_the_command(folder: Path, url: str) -> None:
    file = folder / "asked.jsonl"
    file.write_text("".join(json.dumps(line(f"n{n}", "say it")) + "\n" for n in range(3)))
    command = [sys.executable, "-m", "server.cli", "batch", str(file)]
    done = subprocess.run(
        [*command, "--base-url", f"{url}/v1", "--api-key", KEY],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers = (folder / "asked.output.jsonl").read_text().splitlines()
    assert {json.loads(answer)["custom_id"] for answer in answers} == {"n0", "n1", "n2"}
