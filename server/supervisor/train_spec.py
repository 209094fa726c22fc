"""From a job to what its trainer is told."""

from __future__ import annotations

import time
from pathlib import Path

from server.config import ModelEntry, Training
from server.fine_tuning.base_shape import read_base_shape
from server.fine_tuning.hyperparameters import filled, given_of, learning_rate
from server.store.records import Job, Model, ModelKind
from workers.contract.parameters import (
    DataArguments,
    FinetuningArguments,
    FinetuningType,
    ModelArguments,
    PPOArguments,
    TrainingArguments,
)
from workers.contract.training import TrainSpec

_PACKED_LEN = 2048
"""Tokens of a packed row where no `cutoff_len` is asked for: longer rows only cost more."""


def build_train_spec(
    job: Job,
    settings: Training,
    entry: ModelEntry,
    template_folders: tuple[Path, ...],
    output_dir: Path,
) -> TrainSpec:
    wanted = filled(given_of(job))
    has_validation = job.plan.validation_blob is not None
    return TrainSpec(
        job_id=job.id,
        output_dir=str(output_dir),
        model=ModelArguments(
            model_name_or_path=job.plan.weights_path,
            adapter_name_or_path=job.plan.adapter_path,
            template=entry.template,
            template_folders=tuple(map(str, template_folders)),
            default_system=entry.default_system,
            tool_format=entry.tool_format,
            compute_dtype=settings.compute_dtype,
            device=settings.device,
        ),
        data=wanted.arguments(
            DataArguments,
            train_file=str(output_dir / "training.jsonl"),
            validation_file=str(output_dir / "validation.jsonl") if has_validation else None,
            cutoff_len=wanted.of("cutoff_len") or settings.max_cutoff_len,
            packing_len=_PACKED_LEN if wanted.of("cutoff_len") is None else None,
        ),
        finetuning=wanted.arguments(FinetuningArguments, stage=wanted.method.stage),
        training=wanted.arguments(
            TrainingArguments,
            learning_rate=learning_rate(
                wanted, read_base_shape(Path(job.plan.weights_path)).hidden_size
            ),
            seed=job.plan.seed,
        ),
        ppo=wanted.arguments(
            PPOArguments,
            reward_model=job.plan.reward_model,
            reward_model_type=job.plan.reward_model_type,
            ref_model=job.plan.reference_path,
            ref_model_adapters=job.plan.reference_adapter_path,
        ),
    )


def resulting_model(
    job: Job, name: str, kind: ModelKind, path: Path, owned_by: str, adapter_uid: int | None
) -> Model:
    """The row of what the job made: with a `adapter_uid` an adapter that the engines of the model
    it started from serve, else a model with an engine of its own."""
    return Model(
        id=name,
        project_id=job.project_id,
        kind=kind,
        parent=job.plan.aliased or job.plan.model,
        base=job.plan.base,
        engine_model=name if adapter_uid is None else job.plan.engine_model,
        path=str(path),
        adapter_uid=adapter_uid,
        created_at=int(time.time()),
        owned_by=owned_by,
        job_id=job.id,
    )


def makes_adapter(job: Job) -> bool:
    return given_of(job).result is FinetuningType.LORA
