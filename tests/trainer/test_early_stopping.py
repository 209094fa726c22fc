"""Runs that end once the loss on the validation data falls no more; their best weights are left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.trainer.conftest import CHATS, Workspace, chat, events_of, train
from tests.trainer.test_resume import StopsAt, assert_same_run, final_weights
from workers.contract.training import Completed, Evaluated, TrainFailed, TrainSpec, Warned
from workers.trainer.run import run

HELD_OUT = [chat("What is it?", "zzzz zzzz"), chat("And that?", "yyyy")]
"""Other answers than those that are learned, so that their loss soon rises."""


def spec_of(workspace: Workspace, output_dir: str = "run", **training: Any) -> TrainSpec:
    settings = {
        "num_train_epochs": 12,
        "learning_rate": 2e-2,
        "early_stopping_steps": 2,
        "load_best_model_at_end": True,
        "save_total_limit": 1,
        **training,
    }
    validation_file = workspace.write("held_out.jsonl", HELD_OUT)
    return workspace.spec(
        CHATS[:8], output_dir=output_dir, data={"validation_file": validation_file}, **settings
    )


def losses(spec: TrainSpec) -> dict[int, float]:
    events = events_of(spec)
    return {e.step: e.metrics["full_valid_loss"] for e in events if isinstance(e, Evaluated)}


def test_a_run_ends_two_evaluations_behind_its_best_which_is_its_result(
    workspace: Workspace,
) -> None:
    spec = spec_of(workspace)
    events = train(spec)
    last = events[-1]
    assert isinstance(last, Completed)
    found = losses(spec)
    best = min(found, key=lambda step: found[step])
    assert last.step == best + 4 < 24, "two evaluations of an epoch of two steps each"
    assert any(isinstance(e, Warned) and f"ended at step {last.step}" in e.message for e in events)
    kept = load_file(Path(last.path).parent / f"checkpoints/step-{best}/adapter_model.safetensors")
    final = final_weights(spec)
    assert all(torch.equal(final[name], kept[name]) for name in kept)
    newest = Path(last.path).parent / f"checkpoints/step-{last.step}/adapter_model.safetensors"
    assert any(not torch.equal(final[n], w) for n, w in load_file(newest).items())


def test_without_them_a_run_goes_to_its_end_and_leaves_the_last_weights(
    workspace: Workspace,
) -> None:
    spec = spec_of(workspace, early_stopping_steps=None, load_best_model_at_end=False)
    last = train(spec)[-1]
    assert isinstance(last, Completed)
    assert last.step == 24


def test_a_run_that_is_stopped_ends_at_the_same_step(workspace: Workspace) -> None:
    train(spec_of(workspace, "whole"))
    assert run(spec_of(workspace, "stopped"), StopsAt(3))
    train(spec_of(workspace, "stopped"))
    assert_same_run(spec_of(workspace, "stopped"), spec_of(workspace, "whole"))


@pytest.mark.parametrize(
    ("training", "param"),
    [
        ({"save_steps": 3}, "load_best_model_at_end"),
        ({"save_strategy": "no"}, "load_best_model_at_end"),
        ({"save_strategy": "no", "eval_strategy": "no"}, "load_best_model_at_end"),
    ],
)
def test_the_best_needs_a_checkpoint_for_each_evaluation(
    workspace: Workspace, training: dict[str, Any], param: str
) -> None:
    last = train(spec_of(workspace, **training))[-1]
    assert isinstance(last, TrainFailed)
    assert (last.code, last.param) == ("invalid_hyperparameters", param)


def test_both_need_something_to_be_measured_on(workspace: Workspace) -> None:
    last = train(workspace.spec(early_stopping_steps=1))[-1]
    assert isinstance(last, TrainFailed)
    assert last.param == "early_stopping_steps"
