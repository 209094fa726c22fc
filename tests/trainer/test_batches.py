"""Batches: what is packed, grouped, padded and left out of the logits changes no result."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.trainer.conftest import Workspace, train
from workers.contract.training import Step
from workers.trainer.batches import BatchPlan, Row, pack_rows, single_rows
from workers.trainer.dataset import IGNORED, EncodedExamples
from workers.trainer.stages.sft import Supervised


@pytest.fixture
def examples() -> EncodedExamples:
    """Random ids; the first third of each example is context."""
    rng = np.random.default_rng(1)
    lengths = [int(length) for length in rng.integers(4, 40, size=12)]
    ids = [rng.integers(0, 256, size=length).astype(np.int32) for length in lengths]
    labels = [example.copy() for example in ids]
    for example in labels:
        example[: max(len(example) // 3, 1)] = IGNORED
    return EncodedExamples([(pair,) for pair in zip(ids, labels, strict=True)], [0.0] * 12)


@pytest.fixture
def stage(workspace: Workspace) -> Supervised:
    return Supervised.open(workspace.spec(finetuning={"finetuning_type": "full"}))


def loss_and_gradient(
    stage: Supervised, examples: EncodedExamples, batches: list[list[Row]]
) -> tuple[float, int, torch.Tensor]:
    stage.model.module.zero_grad()
    loss, correct = 0.0, 0
    for rows in batches:
        score = stage.loss(stage.collate(examples, rows))
        score.loss.backward()
        loss += float(score.loss.detach())
        correct += int(score.sums["correct"])
    gradients = [weight.grad for _, weight in stage.model.trainable() if weight.grad is not None]
    return loss, correct, torch.cat([gradient.flatten() for gradient in gradients])


def test_packed_padded_and_single_rows_have_the_same_loss_and_gradient(
    stage: Supervised, examples: EncodedExamples
) -> None:
    alone = [[row] for row in single_rows(len(examples))]
    padded = [single_rows(len(examples))]
    packed = [pack_rows(examples.lengths, 64)]
    assert 1 < len(packed[0]) < len(examples)
    loss, correct, gradient = loss_and_gradient(stage, examples, alone)
    for batches in (padded, packed):
        other = loss_and_gradient(stage, examples, batches)
        assert other[0] == pytest.approx(loss, rel=1e-5)
        assert other[1] == correct
        torch.testing.assert_close(other[2], gradient, rtol=1e-3, atol=1e-3)


def test_the_loss_is_that_of_the_model_itself(stage: Supervised, examples: EncodedExamples) -> None:
    total = 0.0
    for index in range(len(examples)):
        ids, labels = (
            torch.from_numpy(values.astype(np.int64)) for values in examples.sequences(index)[0]
        )
        logits = stage.model.causal_lm(ids[None]).logits[0]
        total += float(functional.cross_entropy(logits[:-1], labels[1:], reduction="sum").detach())
    loss, _, _ = loss_and_gradient(stage, examples, [single_rows(len(examples))])
    assert loss == pytest.approx(total, rel=1e-5)


def test_packing_places_every_example_once_within_the_capacity() -> None:
    rng = random.Random(2)
    lengths = [rng.randint(1, 100) for _ in range(500)]
    rows = pack_rows(lengths, 100)
    assert sorted(index for row in rows for index in row) == list(range(500))
    assert max(sum(lengths[index] for index in row) for row in rows) <= 100
    assert len(rows) <= 1.05 * sum(lengths) / 100


@pytest.mark.parametrize("group_by_length", [True, False])
def test_an_epoch_has_every_row_once_and_epochs_differ(group_by_length: bool) -> None:
    lengths = [1 + index % 17 for index in range(103)]
    rows = single_rows(103)

    def plan(seed: int) -> BatchPlan:
        return BatchPlan(rows, lengths, batch_size=8, seed=seed, group_by_length=group_by_length)

    first, second = plan(1).epoch(0), plan(1).epoch(1)
    assert len(first) == plan(1).num_batches == 13
    for epoch in (first, second):
        assert sorted(row for batch in epoch for row in batch) == rows
    assert first != second
    assert plan(1).epoch(0) == first
    assert plan(2).epoch(0) != first


def test_grouping_by_length_spares_padding() -> None:
    rng = random.Random(3)
    lengths = [rng.randint(10, 200) for _ in range(400)]

    def padded(group_by_length: bool) -> int:
        plan = BatchPlan(
            single_rows(400), lengths, batch_size=8, seed=0, group_by_length=group_by_length
        )
        return sum(
            len(batch) * max(lengths[index] for (index,) in batch) for batch in plan.epoch(0)
        )

    assert padded(True) < 1.15 * sum(lengths) < padded(False)


def test_accumulated_batches_make_the_step_of_one_large_batch(workspace: Workspace) -> None:
    rows = [{"prompt": f"{n} ", "completion": "x" * (n % 7 + 1)} for n in range(16)]

    def losses(name: str, size: int, accumulated: int) -> list[float]:
        spec = workspace.spec(
            rows,
            output_dir=name,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulated,
            data={"validation_file": workspace.write("held_out.jsonl", rows)},
            max_steps=1,
        )
        return [event.grad_norm for event in train(spec) if isinstance(event, Step)]

    assert losses("large", 16, 1) == pytest.approx(losses("small", 4, 4), rel=1e-3)
