"""Files to batches: what a run trains on and is measured by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from workers.contract.training import Stage, TrainingArguments, TrainSpec
from workers.trainer.batches import Batch, BatchPlan, Row, collate, pack_rows, single_rows
from workers.trainer.dataset import EncodedExamples, LoadedFile, listed, load_file
from workers.trainer.encoding import RowEncoder, load_row_encoder
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
    encoder = load_row_encoder(spec.model, spec.finetuning.stage, spec.data)
    cutoff_len = min(spec.data.cutoff_len, context_len or spec.data.cutoff_len)
    training = _load(spec, spec.data.train_file, encoder, cutoff_len, False, stop)
    warnings = _warnings(training, cutoff_len, "training")
    validation: list[Batch] = []
    if spec.data.validation_file is not None:
        held_out = _load(spec, spec.data.validation_file, encoder, cutoff_len, True, stop)
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


def _load(
    spec: TrainSpec,
    path: str,
    encoder: RowEncoder,
    cutoff_len: int,
    is_validation: bool,
    stop: StopRequest,
) -> LoadedFile:
    return load_file(
        Path(path),
        encoder,
        cutoff_len=cutoff_len,
        split_long=spec.finetuning.stage is Stage.PT,
        is_validation=is_validation,
        between_lines=stop.check,
    )


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
            f"and were cut at the end: {listed(loaded.truncated_lines)}."
        )
    if loaded.dropped_lines:
        warnings.append(
            f"{len(loaded.dropped_lines)} {kind} example(s) have nothing to learn from within "
            f"{cutoff_len} tokens and were left out: {listed(loaded.dropped_lines)}."
        )
    return warnings
