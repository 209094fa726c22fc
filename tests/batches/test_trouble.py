"""Batches whose engine dies, whose input goes, and whose projects have too many."""

from __future__ import annotations

from pathlib import Path

import openai
import pytest

from tests.batches.conftest import FOREIGN_KEY, REPLIES, create, line, rows, started, until
from tests.gateway.conftest import start_worker


def test_a_killed_engine_costs_no_line_and_the_bounds_hold(tmp_path: Path) -> None:
    gateway, stop = started(tmp_path, batch_lines_at_once=8, max_batches_per_project=1)
    again = None
    try:
        with gateway.client() as client, gateway.client(api_key=FOREIGN_KEY) as foreign:
            lines = [line(f"n{n}") for n in range(400)]
            gateway.workers[0].process.kill()
            gateway.workers[0].process.wait()
            made = create(client, lines)
            with pytest.raises(openai.RateLimitError) as refused:
                client.with_options(max_retries=0).batches.create(
                    input_file_id=made.input_file_id,
                    endpoint="/v1/chat/completions",
                    completion_window="24h",
                )
            assert refused.value.code == "rate_limit_exceeded"
            assert "retry-after" in refused.value.response.headers
            client.files.delete(made.input_file_id)
            (tmp_path / "engine.sock").unlink(missing_ok=True)
            again = start_worker(tmp_path, "engine", REPLIES)
            ended = until(client, made.id)
            assert (ended.status, ended.error_file_id) == ("completed", None)
            output = rows(client, ended.output_file_id)
            assert set(output) == {entry["custom_id"] for entry in lines}
            with pytest.raises(openai.NotFoundError):
                foreign.files.content(ended.output_file_id or "")
    finally:
        stop()
        if again is not None:
            again.stop()
