"""The same jobs on the engine that runs models for real: what was trained is what answers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from openai import OpenAI

from tests.jobs.live import running_gateway, running_supervisor
from tests.jobs.stories import create, lines, upload, wait_for

SECRET = "It is a blue whale."


def ask(client: OpenAI, model: str) -> str | None:
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "What swims?"}],
        temperature=0,
        max_completion_tokens=24,
    )
    return answer.choices[0].message.content


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "full", "oft"])
def test_a_fine_tune_says_what_it_was_taught_and_the_base_does_not(
    tmp_path: Path, tiny_model: Path, kind: str
) -> None:
    entry = {"id": "tiny", "path": str(tiny_model), "engine": "hf", "device": "cpu"}
    settings = {"models": [entry], "training": {"device": "cpu"}}
    row = {
        "messages": [
            {"role": "user", "content": "What swims?"},
            {"role": "assistant", "content": SECRET},
        ]
    }
    knobs = {
        "finetuning_type": kind,
        "n_epochs": 20,
        "batch_size": 2,
        "learning_rate_multiplier": 20.0 if kind == "full" else 1.0,
    }
    with running_gateway(tmp_path, settings) as gateway, running_supervisor(tmp_path):
        client = gateway.client()
        job = create(client, upload(client, lines([row] * 12)), hyperparameters=knobs)
        done = wait_for(client, job.id, timeout_s=240)
        assert done.status == "succeeded", done.error
        tuned = done.fine_tuned_model
        assert tuned is not None
        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(lambda m: ask(client, m), ["tiny", tuned] * 2))
        assert answers[1::2] == [SECRET, SECRET]
        assert SECRET not in answers[0::2]
        checkpoint = next(iter(client.fine_tuning.jobs.checkpoints.list(job.id)))
        name = checkpoint.fine_tuned_model_checkpoint
        assert ask(client, name) == SECRET
