"""Batches without padding give the losses and gradients of padded ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.architectures.subject import Subject
from tests.trainer.conftest import CHATS, Workspace, train
from workers.contract.training import Completed, Step, TrainSpec
from workers.trainer.batches import collate
from workers.trainer.dataset import IGNORED, EncodedExamples
from workers.trainer.flat import flatten, lay_flat
from workers.trainer.models import load_model
from workers.trainer.preparation import prepare_data
from workers.trainer.stages.sft import Supervised
from workers.trainer.stopping import StopRequest

FULL = {"finetuning_type": "full"}


def lines_of(examples: EncodedExamples, *rows: tuple[int, ...]) -> list[list[Any]]:
    return [[examples.sequences(index)[0] for index in row] for row in rows]


def opened(spec: TrainSpec) -> tuple[Supervised, EncodedExamples]:
    stage = Supervised.open(spec)
    return stage, prepare_data(spec, stage, StopRequest())[0].training


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("rows", [((0,), (1,), (2,)), ((0, 1, 5), (3, 2))], ids=["plain", "packed"])
def test_loss_and_gradients_are_those_of_padded_rows(
    workspace: Workspace, kind: str, checkpointing: bool, rows: tuple[tuple[int, ...], ...]
) -> None:
    spec = workspace.spec(
        finetuning={"finetuning_type": kind, "lora_dropout": 0.0},
        gradient_checkpointing=checkpointing,
    )
    padded, examples = opened(spec)
    flat = Supervised.open(spec)
    lines = lines_of(examples, *rows)
    assert lay_flat(flat.model)
    batches = (collate(lines), flatten([sequence for line in lines for sequence in line]))
    assert batches[0].weight == batches[1].weight
    assert batches[0].num_tokens == batches[1].num_tokens
    losses = []
    for stage, batch in zip((padded, flat), batches, strict=True):
        score = stage.loss(batch)
        score.loss.backward()
        losses.append((float(score.loss.detach()), float(score.sums["correct"])))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    gradients = zip(padded.model.trainable(), flat.model.trainable(), strict=True)
    for (name, one), (_, other) in gradients:
        assert one.grad is not None, name
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-4)


def test_nothing_is_computed_that_no_target_needs() -> None:
    tokens = np.arange(6, dtype=np.int32)
    labels = np.array([IGNORED, IGNORED, 2, 3, IGNORED, IGNORED], dtype=np.int32)
    batch = flatten([(tokens, labels), (tokens[:3], labels[:3])])
    assert batch.input_ids.tolist() == [[0, 1, 2, 0, 1]]
    assert batch.position_ids is not None
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1]]
    assert batch.targets.tolist() == [[2, 3, 2]]
    assert batch.scored_columns.tolist() == [1, 2, 4]
    assert batch.lengths == (3, 2)
    assert (batch.weight, batch.num_tokens) == (3, 9)


@pytest.mark.parametrize(
    ("family", "is_flat"),
    [("llama", True), ("qwen3_moe", True), ("mistral", False), ("gemma3_text", False)],
)
@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
def test_a_model_with_windows_keeps_padded_rows(
    tmp_path: Path, family: str, is_flat: bool, compute_dtype: str
) -> None:
    workspace = Workspace(tmp_path, Subject(family, tmp_path).path)
    model = load_model(workspace.spec(model={"compute_dtype": compute_dtype}, finetuning=FULL))
    assert lay_flat(model) is is_flat
    implementation = model.causal_lm.config._attn_implementation
    assert (implementation == "sdpa") is not is_flat


def test_noise_on_embeddings_keeps_padded_rows(workspace: Workspace) -> None:
    stage, examples = opened(workspace.spec(neftune_noise_alpha=5.0))
    assert stage.collate(examples, [(0,), (1,)]).input_ids.shape[0] == 2


def test_a_run_of_several_passes_a_step_learns_the_same(workspace: Workspace) -> None:
    """Accumulated batches and one of all are the same step."""
    runs = [
        workspace.spec(
            CHATS,
            output_dir=name,
            num_train_epochs=1,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=20 // size,
            finetuning={"lora_dropout": 0.0},
        )
        for name, size in (("one", 20), ("many", 2))
    ]
    told = []
    for spec in runs:
        events = train(spec)
        assert isinstance(events[-1], Completed), events[-1]
        told.append([e.metrics["train_loss"] for e in events if isinstance(e, Step)])
    assert told[0] == pytest.approx(told[1], rel=1e-5)
