"""Training on a policy's own answers: what it learns, what it measures, and that it goes on."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from tests.trainer.conftest import Workspace, build_tokenizer, chat, start, train
from tests.trainer.test_pairs import steps
from tests.trainer.test_resume import (
    DEADLINE_S,
    assert_same_run,
    final_weights,
    has_step,
    wait_for,
)
from workers.contract.training import TrainFailed, TrainSpec, TrainEvent

ROWS = [chat(f"Say {n}.", "dropped") for n in range(32)]
Score = Any


@contextmanager
def reward_server(score: Score, status: int = 200) -> Generator[tuple[str, list[Any]]]:
    """Its URL, and the bodies it was sent."""
    bodies: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            bodies.append(body)
            content = json.dumps({"scores": [score(text) for text in body["messages"]]}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/score/evaluation", bodies
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def share_of_ascii(text: str) -> float:
    answer = text.rpartition("assistant\n")[2].removesuffix("<|im_end|>\n")
    return 10 * sum(letter.isascii() for letter in answer) / max(len(answer), 1)


def spec_of(
    workspace: Workspace,
    reward_model: str,
    output_dir: str = "run",
    *,
    finetuning: dict[str, Any] | None = None,
    ppo: dict[str, Any] | None = None,
    **training: Any,
) -> TrainSpec:
    told = {
        "reward_model": reward_model,
        "reward_model_type": "api",
        "max_new_tokens": 8,
        "top_k": 0,
        "top_p": 1.0,
        "temperature": 1.0,
        **(ppo or {}),
    }
    settings = {
        "max_steps": 20,
        "per_device_train_batch_size": 32,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        **training,
    }
    return workspace.spec(
        ROWS,
        output_dir=output_dir,
        finetuning={"stage": "ppo", **(finetuning or {})},
        ppo=told,
        **settings,
    )


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_the_reward_rises(workspace: Workspace, kind: str) -> None:
    rate = 1e-2 if kind == "lora" else 2e-3
    with reward_server(share_of_ascii) as (url, _):
        told = steps(
            train(
                spec_of(workspace, url, finetuning={"finetuning_type": kind}, learning_rate=rate)
            )
        )
    assert len(told) == 20
    rewards = [each["train_reward"] for each in told]
    assert sum(rewards[-5:]) > sum(rewards[:5]) + 0.5
    assert told[0]["train_kl"] == pytest.approx(0, abs=1e-4)
    assert told[-1]["train_kl"] > 0.01
    names = {"train_loss", "train_policy_loss", "train_value_loss", "train_kl_weight"}
    assert names <= told[0].keys()
