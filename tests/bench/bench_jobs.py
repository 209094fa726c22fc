"""From asking for a fine-tuning job to its first training step, and from `succeeded` to the first
token of the new model, on the bundled model and with real processes.

The first is told apart into what it is made of: checking the file and queueing; the trainer's
start with its imports, the model and the data; the first step itself. Once with a trainer that
waits warm, once without.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openai import OpenAI
from rich.console import Console
from rich.table import Table

from server.config import BUNDLED_MODEL
from tests.jobs.live import Gateway, running_gateway, running_supervisor, wait_until
from tests.jobs.stories import create, lines, rows, upload, wait_for

MODEL = "tuneyard-mini"
NUM_EXAMPLES = 50
NUM_RUNS = 3
PAUSE_S = 15.0
"""Between jobs: the machine is idle again, and the next warm trainer ready."""
FIRST_TOKEN_LIMIT_S = 1.0


@dataclass(frozen=True, slots=True)
class Latency:
    queued_s: float
    """POST to the trainer's spec: the file is checked, the job claimed."""
    starting_s: float
    """To the start of training: the process and its imports where it is cold, model and data."""
    first_step_s: float
    first_token_s: float
    """From `succeeded`, as a client sees it, to the new model's first token."""

    @property
    def to_first_step_s(self) -> float:
        return self.queued_s + self.starting_s + self.first_step_s


def main() -> int:
    argparse.ArgumentParser(description=__doc__).parse_args()
    found = {warm: measure(warm) for warm in (1, 0)}
    table = Table("seconds, median of runs", "warm trainer", "cold trainer")
    for label, name in (
        ("POST to first step", "to_first_step_s"),
        ("  checked, queued, claimed", "queued_s"),
        ("  process and imports, model, data", "starting_s"),
        ("  first step", "first_step_s"),
        ("succeeded to first token", "first_token_s"),
    ):
        cells = [statistics.median(getattr(run, name) for run in found[warm]) for warm in (1, 0)]
        table.add_row(label, *(f"{cell:.2f}" for cell in cells))
    Console().print(table)
    worst = max(run.first_token_s for runs in found.values() for run in runs)
    return 0 if worst < FIRST_TOKEN_LIMIT_S else 1


def measure(warm_trainers: int) -> list[Latency]:
    settings: dict[str, object] = {
        "models": [{"id": MODEL, "path": str(BUNDLED_MODEL)}],
        "training": {"warm_trainers": warm_trainers},
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with running_gateway(folder, settings) as gateway, running_supervisor(folder):
            client = gateway.client()
            wait_until(lambda: _answers(client), 120)
            return [_run(gateway, client) for _ in range(NUM_RUNS)]


def _answers(client: OpenAI) -> bool:
    try:
        _first_token(client, MODEL)
    except Exception:
        return False
    return True


def _run(gateway: Gateway, client: OpenAI) -> Latency:
    training = upload(client, lines(rows(NUM_EXAMPLES)))
    time.sleep(PAUSE_S)
    posted = time.time()
    job = create(client, training, model=MODEL, hyperparameters={"batch_size": 8})
    while client.fine_tuning.jobs.retrieve(job.id).status in ("validating_files", "queued"):
        time.sleep(0.02)
    while client.fine_tuning.jobs.retrieve(job.id).status == "running":
        time.sleep(0.005)
    done = wait_for(client, job.id)
    assert done.status == "succeeded", done.error
    assert done.fine_tuned_model is not None
    first_token_s = _first_token(client, done.fine_tuned_model)
    folder = gateway.data / "jobs" / job.id
    told = (folder / "spec.json").stat().st_mtime
    events: list[dict[str, Any]] = [
        json.loads(line) for line in (folder / "events.ndjson").read_text().splitlines()
    ]
    started = next(event["at"] for event in events if event["type"] == "started")
    stepped = next(event["at"] for event in events if event["type"] == "step")
    return Latency(
        queued_s=told - posted,
        starting_s=started - told,
        first_step_s=stepped - started,
        first_token_s=first_token_s,
    )


def _first_token(client: OpenAI, model: str) -> float:
    asked = time.perf_counter()
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "What is number 7?"}],
        max_completion_tokens=4,
        stream=True,
    )
    with stream:
        for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                return time.perf_counter() - asked
    return time.perf_counter() - asked


if __name__ == "__main__":
    raise SystemExit(main())
