"""Files to batches: what a run trains on and is measured by."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path

from workers.contract.training import TrainSpec
from workers.trainer.batches import Batch, BatchPlan, Row, pack_rows, single_rows
from workers.trainer.dataset import EncodedExamples, LoadedFile, Window, load_file
from workers.trainer.failures import InvalidHyperparameters
from workers.trainer.fitting import fitting
from workers.trainer.schedule import Schedule
from workers.trainer.stages.stage import TrainingStage
from workers.trainer.stopping import StopRequest

DEFAULT_CUTOFF_LEN = 2048
"""Where neither the run nor the model's config names a length."""


@dataclass(frozen=True, slots=True)
class Data:
    plan: BatchPlan
    training: EncodedExamples
    validation: list[Batch]

    def schedule(self, spec: TrainSpec) -> Schedule:
        per_step = spec.training.gradient_accumulation_steps * spec.ppo.ppo_buffer_size
        return Schedule.of(spec.training, self.plan.num_batches, per_step)


def prepare_data(
    spec: TrainSpec, stage: TrainingStage, stop: StopRequest
) -> tuple[Data, list[str]]:
    """The run's data, and what its user should know of it. Raises TrainerError, StopRequested."""
    context_len = stage.model.context_len
    limits = (spec.data.cutoff_len, context_len)
    cutoff_len = min((limit for limit in limits if limit is not None), default=DEFAULT_CUTOFF_LEN)
    window = Window(cutoff_len, context_len)

    def load(path: str, *, is_validation: bool) -> LoadedFile:
        return load_file(
            Path(path),
            stage,
            window,
            is_validation=is_validation,
            max_lines=spec.data.max_samples,
            between_lines=stop.check,
        )

    loaded = load(spec.data.train_file, is_validation=False)
    warnings = _warnings(loaded, window, "training")
    training = loaded.examples
    validation: list[Batch] = []
    if spec.data.validation_file is not None:
        held_out = load(spec.data.validation_file, is_validation=True)
        warnings += _warnings(held_out, window, "validation")
        stage.prepare(held_out.examples, stop.check)
        validation = _validation_batches(spec, stage, held_out.examples)
    elif spec.data.val_size:
        training, apart = hold_out(training, spec.data.val_size, spec.training.seed)
        stage.prepare(apart, stop.check)
        validation = _validation_batches(spec, stage, apart)
    stage.prepare(training, stop.check)
    plan = BatchPlan(
        _rows(spec, training, cutoff_len),
        training.lengths,
        batch_size=spec.training.per_device_train_batch_size,
        seed=spec.training.seed,
        group_by_length=True,
    )
    return Data(plan, training, validation), warnings


def hold_out(
    examples: EncodedExamples, size: float, seed: int
) -> tuple[EncodedExamples, EncodedExamples]:
    """What stays to train on, and what is held out: a share of the examples, rounded up, or so many
    of them. Raises InvalidHyperparameters."""
    total = len(examples)
    num_held = math.ceil(size * total) if size < 1 else int(size)
    if num_held >= total:
        raise InvalidHyperparameters(
            f"'val_size' leaves nothing to train on: the training file has {total} example(s).",
            "val_size",
        )
    order = list(range(total))
    random.Random(f"{seed}/held out").shuffle(order)
    return examples.subset(sorted(order[num_held:])), examples.subset(sorted(order[:num_held]))


def _rows(spec: TrainSpec, examples: EncodedExamples, cutoff_len: int) -> list[Row]:
    if not spec.data.packing:
        return single_rows(len(examples))
    capacity = cutoff_len
    if spec.data.packing_len is not None:
        capacity = min(cutoff_len, max(spec.data.packing_len, *examples.lengths))
    return pack_rows(examples.lengths, capacity)


def _validation_batches(
    spec: TrainSpec, stage: TrainingStage, examples: EncodedExamples
) -> list[Batch]:
    size = spec.training.per_device_train_batch_size
    rows = single_rows(len(examples))
    return [
        stage.collate(examples, part)
        for at in range(0, len(rows), size)
        for part in fitting(rows[at : at + size], examples.lengths)
    ]


def _warnings(loaded: LoadedFile, window: Window, kind: str) -> list[str]:
    warnings: list[str] = []
    if loaded.truncated.count:
        warnings.append(
            f"{loaded.truncated.count} {kind} example(s) were longer than {window} and were cut: "
            f"{loaded.truncated}."
        )
    if loaded.dropped.count:
        warnings.append(
            f"{loaded.dropped.count} {kind} example(s) have nothing to learn from within {window} "
            f"and were left out: {loaded.dropped}."
        )
    return warnings
