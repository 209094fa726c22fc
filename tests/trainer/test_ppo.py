"""Training on a policy's own answers: what it learns, what it measures, and that it goes on."""

from __future__ import annotations

import json
import math
import shutil
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.trainer.conftest import Workspace, build_model, build_tokenizer, chat, start, train
from tests.trainer.test_pairs import steps
from tests.trainer.test_resume import (
    DEADLINE_S,
    assert_same_run,
    final_weights,
    has_step,
    wait_for,
)
from workers.contract.training import TrainFailed, TrainSpec
from workers.trainer.models import load_model
from workers.trainer.rewards import open_rewards

ROWS = [chat(f"Say {n}.", "dropped") for n in range(32)]
Score = Callable[[str], object]


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


def one(text: str) -> float:
    return 1.0


def word(text: str) -> str:
    return "high"


def not_a_number(text: str) -> float:
    return math.nan


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
    settings: dict[str, Any] = {
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


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With embeddings that are far enough apart for an adapter to choose between tokens."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    build_model(len(tokenizer), initializer_range=0.1).save_pretrained(folder)
    return folder


def reward_model(folder: Path, base: Path, seed: int = 1) -> str:
    """The base with a value head of the seed's."""
    shutil.copytree(base, folder)
    torch.manual_seed(seed)
    head = {"v_head.summary.weight": torch.randn(1, 64), "v_head.summary.bias": torch.zeros(1)}
    save_file(head, folder / "value_head.safetensors")
    return str(folder)


@pytest.mark.parametrize(("kind", "rate", "least"), [("lora", 5e-3, 0.3), ("full", 1e-3, 1.5)])
def test_the_reward_rises(workspace: Workspace, kind: str, rate: float, least: float) -> None:
    with reward_server(share_of_ascii) as (url, bodies):
        wanted = {"finetuning_type": kind}
        spec = spec_of(workspace, url, finetuning=wanted, learning_rate=rate, max_steps=25)
        told = steps(train(spec))
    assert len(told) == len(bodies) == 25
    rewards = [each["train_reward"] for each in told]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + least
    assert told[0]["train_kl"] == pytest.approx(0, abs=1e-4)
    assert told[-1]["train_kl"] > 0.01
    names = {"train_loss", "train_policy_loss", "train_value_loss", "train_kl_weight"}
    assert names <= told[0].keys()


def test_a_server_is_asked_with_whole_conversations(workspace: Workspace) -> None:
    with reward_server(one) as (url, bodies):
        train(spec_of(workspace, url, max_steps=1, num_train_epochs=1))
    (body,) = bodies
    assert body["model"] == "model"
    assert len(body["messages"]) == 32
    start = "<|im_start|>user\nSay "
    assert all(text.startswith(start) for text in body["messages"])
    assert not any("dropped" in text for text in body["messages"])


@pytest.mark.parametrize(
    ("score", "status", "said"),
    [
        (one, 500, "status 500"),
        (word, 200, "no 'scores' of numbers"),
        (not_a_number, 200, "no 'scores' of numbers"),
    ],
)
def test_a_server_without_scores_fails_the_run_by_its_name(
    workspace: Workspace, score: Score, status: int, said: str
) -> None:
    with reward_server(score, status) as (url, _):
        last = train(spec_of(workspace, url))[-1]
    assert isinstance(last, TrainFailed)
    assert (last.code, last.param) == ("internal_error", "reward_model")
    assert said in last.message


def test_a_prompt_without_room_for_an_answer_is_refused(workspace: Workspace) -> None:
    last = train(spec_of(workspace, "http://127.0.0.1:1/", ppo={"max_new_tokens": 512}))[-1]
    assert isinstance(last, TrainFailed)
    assert (last.code, last.param) == ("invalid_hyperparameters", "max_new_tokens")


def test_a_reward_model_gives_the_value_at_the_last_token(
    workspace: Workspace, tmp_path: Path, base: Path
) -> None:
    path = reward_model(tmp_path / "judge", base)
    wanted = {"reward_model_type": "full"}
    spec = spec_of(workspace, path, ppo=wanted)
    rewards = open_rewards(spec, load_model(spec), lambda _: True, str)
    answers = [[5, 9, 258, 11], [7, 8]]
    model = AutoModelForCausalLM.from_pretrained(base)
    weight = load_file(Path(path) / "value_head.safetensors")["v_head.summary.weight"]
    with torch.no_grad():
        states = [model.base_model(torch.tensor([ids])).last_hidden_state[0, -1] for ids in answers]
    expected = [float(weight[0] @ state) for state in states]
    assert rewards.score(answers).tolist() == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_each_parameter_changes_what_is_learned(
    workspace: Workspace, tmp_path: Path, base: Path
) -> None:
    path = reward_model(tmp_path / "judge", base)

    def weights(number: int, **ppo: Any) -> list[float]:
        wanted = {"reward_model_type": "full", **ppo}
        spec = spec_of(
            workspace, path, f"run-{number}", ppo=wanted, max_steps=3, per_device_train_batch_size=4
        )
        train(spec)
        return [float(each.double().abs().sum()) for each in final_weights(spec).values()]

    other = str(shutil.copytree(base, tmp_path / "other"))
    model = build_model(len(build_tokenizer()), seed=5, initializer_range=0.1)
    model.save_pretrained(other)
    varied: list[dict[str, Any]] = [
        {},
        {"ppo_buffer_size": 2},
        {"ppo_epochs": 2},
        {"ppo_score_norm": True},
        {"ppo_target": 0.1, "ppo_epochs": 3},
        {"ppo_target": 9.0, "ppo_epochs": 3},
        {"ppo_whiten_rewards": True},
        {"ref_model": other},
        {"max_new_tokens": 6},
        {"temperature": 0.5},
        {"top_p": 0.5},
        {"top_k": 5},
        {"repetition_penalty": 3.0},
    ]
    found = [weights(number, **ppo) for number, ppo in enumerate(varied)]
    assert all(found[a] != found[b] for a in range(len(found)) for b in range(a))


def test_a_run_that_is_killed_goes_on_with_the_same_curve(
    workspace: Workspace, tmp_path: Path, base: Path
) -> None:
    path = reward_model(tmp_path / "judge", base)
    wanted = {
        "reward_model_type": "full",
        "ppo_score_norm": True,
        "ppo_buffer_size": 2,
        "ppo_target": 0.5,
    }

    def long(output_dir: str) -> TrainSpec:
        return spec_of(
            workspace,
            path,
            output_dir,
            finetuning={"lora_dropout": 0.1},
            ppo=wanted,
            per_device_train_batch_size=4,
            max_steps=10,
            save_steps=3,
            save_total_limit=10,
        )

    train(long("whole"))
    killed = long("killed")
    process = start(killed)
    wait_for(process, has_step(killed, 5))
    process.kill()
    process.wait()
    assert start(killed).wait(DEADLINE_S) == 0
    assert_same_run(killed, long("whole"))
