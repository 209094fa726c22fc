"""Runs whose numbers leave their range end with a code and advice, and leave nothing to chat with
that is not a number."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.trainer.conftest import CHATS, Workspace, train
from workers.contract.training import CheckpointSaved, Completed, Step, TrainFailed

FULL = {"finetuning_type": "full"}


@pytest.mark.parametrize(
    ("finetuning", "training"),
    [
        ({}, {"learning_rate": 1e30, "optim": "sgd", "max_grad_norm": 0.0}),
        ({}, {"learning_rate": 1e20}),
        (FULL, {"learning_rate": 1e38}),
        (FULL, {"learning_rate": 1e30, "optim": "sgd", "max_grad_norm": 0.0}),
    ],
    ids=["lora by sgd", "lora by adamw", "full by adamw", "full by sgd"],
)
@pytest.mark.parametrize("validated", [False, True])
def test_a_diverging_run_ends_and_keeps_only_numbers(
    workspace: Workspace, finetuning: dict[str, Any], training: dict[str, Any], validated: bool
) -> None:
    held_out = workspace.write("valid.jsonl", CHATS[:4]) if validated else None
    data = {"validation_file": held_out}
    spec = workspace.spec(finetuning=finetuning, data=data, save_steps=1, **training)
    events = train(spec)
    failed = events[-1]
    assert isinstance(failed, TrainFailed), failed
    assert failed.code == "training_diverged"
    assert "is not finite at step" in failed.message
    assert "learning_rate_multiplier" in failed.message
    assert not any(isinstance(event, Completed) for event in events)
    assert all(isinstance(e.metrics["train_loss"], float) for e in events if isinstance(e, Step))
    told = {e.step for e in events if isinstance(e, CheckpointSaved)}
    output_dir = Path(spec.output_dir)
    assert {int(p.name[5:]) for p in (output_dir / "checkpoints").iterdir()} <= told
    assert not (output_dir / "model").exists()
    for file in output_dir.glob("**/*.safetensors"):
        assert all(weight.isfinite().all() for weight in load_file(file).values())


def test_a_weight_too_large_for_the_stored_dtype_is_not_written(workspace: Workspace) -> None:
    half = workspace.folder / "half"
    shutil.copytree(workspace.base, half)
    AutoModelForCausalLM.from_pretrained(half, dtype="float16").save_pretrained(half)
    spec = workspace.spec(
        model={"model_name_or_path": str(half)}, finetuning=FULL, learning_rate=1e5, max_steps=1
    )
    failed = train(spec)[-1]
    assert isinstance(failed, TrainFailed)
    assert (failed.code, "a weight is not finite at step 1" in failed.message) == (
        "training_diverged",
        True,
    )
    assert not list(Path(spec.output_dir).glob("**/*.safetensors"))


def test_a_base_that_computes_no_numbers_is_told_apart(workspace: Workspace) -> None:
    broken = workspace.folder / "broken"
    shutil.copytree(workspace.base, broken)
    file = broken / "model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if "down_proj" in name)
    weights[name][:] = float("nan")
    save_file(weights, file, metadata={"format": "pt"})
    failed = train(workspace.spec(model={"model_name_or_path": str(broken)}))[-1]
    assert isinstance(failed, TrainFailed)
    assert failed.code == "training_diverged"
    assert "at the first step, before any weight has changed" in failed.message
