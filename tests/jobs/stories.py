"""Steps that job tests share: training files, creating jobs, waiting for what they come to."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from tests.jobs.live import GUARD_S, wait_until

TERMINAL = ("succeeded", "failed", "cancelled")


def rows(count: int = 12, offset: int = 0) -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "user", "content": f"What is number {n}?"},
                {"role": "assistant", "content": f"It is {n}."},
            ]
        }
        for n in range(offset, offset + count)
    ]


def lines(items: Collection[object]) -> bytes:
    return b"".join(json.dumps(item).encode() + b"\n" for item in items)


def upload(client: OpenAI, content: bytes | None = None) -> str:
    data = lines(rows()) if content is None else content
    return client.files.create(file=("train.jsonl", data), purpose="fine-tune").id


def create(client: OpenAI, training_file: str | None = None, **wanted: Any) -> FineTuningJob:
    """A short LoRA job unless `hyperparameters` say otherwise."""
    knobs = {"n_epochs": 1, "batch_size": 4, **wanted.pop("hyperparameters", {})}
    wanted.setdefault("method", {"type": "supervised", "supervised": {"hyperparameters": knobs}})
    return client.fine_tuning.jobs.create(
        model=wanted.pop("model", "tiny"), training_file=training_file or upload(client), **wanted
    )


def wait_for(
    client: OpenAI, job_id: str, statuses: Collection[str] = TERMINAL, timeout_s: float = GUARD_S
) -> FineTuningJob:
    seen: list[FineTuningJob] = []

    def reached() -> bool:
        seen.append(client.fine_tuning.jobs.retrieve(job_id))
        return seen[-1].status in statuses

    try:
        wait_until(reached, timeout_s)
    except AssertionError:
        raise AssertionError(f"{seen[-1].status}: {messages(client, job_id)}") from None
    return seen[-1]


def messages(client: OpenAI, job_id: str) -> list[str]:
    """Oldest first."""
    return [event.message for event in client.fine_tuning.jobs.list_events(job_id, limit=100)][::-1]


def say(client: OpenAI, model: str, question: str = "Who are you?") -> str | None:
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}]
    )
    return answer.choices[0].message.content
