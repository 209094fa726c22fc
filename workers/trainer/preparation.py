"""Files to batches: what a run trains on and is measured by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from workers.contract.training import TrainingArguments, TrainSpec
from workers.trainer.batches import Batch, BatchPlan, Row, collate, pack_rows, single_rows
from workers.trainer.dataset import EncodedExamples, LoadedFile, listed, load_file
from workers.trainer.encoding import load_row_encoder
from workers.trainer.schedule import Schedule
from workers.trainer.stopping import StopRequest


@dataclass(frozen=True, slots=True)
class Data:
    plan: BatchPlan
    training: EncodedExamples
    validation: list[Batch]

    def schedule(self, arguments: TrainingArguments) -> Schedule:
        return Schedule.of(arguments, self.plan.num_batches)


def prepare_data(
    spec: TrainSpec, context_len: int | None, stop: StopRequest
) -> tuple[Data, list[str]]:
    """The run's data, and what its user should know of it. Raises TrainerError, StopRequested."""
    cutoff_len = min(spec.data.cutoff_len, context_len or spec.data.cutoff_len)
    encoder = load_row_encoder(spec, cutoff_len)
    training = load_file(
        Path(spec.data.train_file), encoder, is_validation=False, between_lines=stop.check
    )
    warnings = _warnings(training, cutoff_len, "training")
    validation: list[Batch] = []
    if spec.data.validation_file is not None:
        held_out = load_file(
            Path(spec.data.validation_file), encoder, is_validation=True, between_lines=stop.check
        )
        warnings += _warnings(held_out, cutoff_len, "validation")
        validation = _validation_batches(spec, held_out.examples)
    plan = BatchPlan(
        _rows(spec, training.examples, cutoff_len),
        training.examples.lengths,
        batch_size=spec.training.per_device_train_batch_size,
        seed=spec.training.seed,
        group_by_length=True,
    )
    return Data(plan, training.examples, validation), warnings


def _rows(spec: TrainSpec, examples: EncodedExamples, cutoff_len: int) -> list[Row]:
    if spec.data.packing:
        return pack_rows(examples.lengths, cutoff_len)
    return single_rows(len(examples))


def _validation_batches(spec: TrainSpec, examples: EncodedExamples) -> list[Batch]:
    size = spec.training.per_device_train_batch_size
    rows = single_rows(len(examples))
    return [collate(examples, rows[at : at + size]) for at in range(0, len(rows), size)]


def _warnings(loaded: LoadedFile, cutoff_len: int, kind: str) -> list[str]:
    warnings: list[str] = []
    if loaded.truncated_lines:
        warnings.append(
            f"{len(loaded.truncated_lines)} {kind} example(s) were longer than {cutoff_len} tokens "
            f"and were cut: {listed(loaded.truncated_lines)}."
        )
    if loaded.dropped_lines:
        warnings.append(
            f"{len(loaded.dropped_lines)} {kind} example(s) have nothing to learn from within "
            f"{cutoff_len} tokens and were left out: {listed(loaded.dropped_lines)}."
        )
    return warnings
