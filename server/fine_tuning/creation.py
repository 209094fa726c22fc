"""A job request checked against what there is: the model, its files, what its engine can serve.
All that can be refused without reading the files is refused here."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from pathlib import Path

from server.blobs import Blobs
from server.config import Config, ModelEntry
from server.errors import (
    InvalidRequest,
    ModelNotFound,
    Unavailable,
    invalid_value,
    unsupported_parameter,
    unsupported_value,
)
from server.fine_tuning.base_shape import BaseShape, read_base_shape
from server.fine_tuning.hyperparameters import (
    AUTO,
    MAX_BATCH,
    Hyperparameters,
    batch_given,
    learning_rate,
    max_learning_rate,
)
from server.fine_tuning.judges import Judges
from server.fine_tuning.methods import METHODS
from server.fine_tuning.schemas import MAX_SEED, CreateJob
from server.fine_tuning.servable import (
    FindHello,
    check_engine,
    check_entry,
    check_experts,
    check_generates,
    check_rank,
    check_scores,
    check_starts,
    merged_where_needed,
)
from server.llamafactory.request import ConfiguredRequest
from server.store import Store
from server.store.identifiers import random_id
from server.store.records import File, Job, JobPlan, JobStatus, Model, Project
from workers.contract.conflicts import find_conflict
from workers.contract.parameters import LOSS_OF, MAX_COUNT, FinetuningType, Stage, settable

FINE_TUNE = "fine-tune"
_MODEL_ID_CHARS = 8


class JobFactory:
    def __init__(self, store: Store, blobs: Blobs, config: Config, find_hello: FindHello) -> None:
        self._store = store
        self._blobs = blobs
        self._config = config
        self._find_hello = find_hello
        self._judges = Judges(store, config)

    def read(self, sent: CreateJob) -> ConfiguredRequest:
        """Raises InvalidRequest."""
        return ConfiguredRequest(sent, self._config.models)

    async def make(self, project: Project, configured: ConfiguredRequest) -> Job:
        """The job to be kept; its files are pinned already. Raises ApiError."""
        with configured.naming_keys():
            return await self._make(project, configured)

    async def _make(self, project: Project, configured: ConfiguredRequest) -> Job:
        """Raises ApiError."""
        request = configured.request
        _check_method(request)
        dataset = None
        if request.dataset is not None:
            request.dataset.layout()
            dataset = request.dataset.model_dump(mode="json", exclude_none=True)
        wanted = request.wanted()
        model = await self._store.models.find(request.model, project.id)
        if model is None:
            raise ModelNotFound(request.model)
        if model.project_id not in (None, project.id):
            raise _not_available(model, "It is another project's, which has shared it for use.")
        weights_path = await self._weights_path(model, project)
        entry, wanted = self._check_trainable(model, wanted)
        configured.check_entry(entry)
        shape = await asyncio.to_thread(read_base_shape, Path(weights_path))
        self._check_size(shape, model, wanted)
        if wanted.result is FinetuningType.LORA:
            check_generates(model.id, shape, wanted.where())
            check_experts(entry, shape, wanted.of("lora_target"), wanted.where())
        _check_validation(request, wanted)
        if request.validation_file == request.training_file:
            raise invalid_value("validation_file", "It must not be the training file.")
        training = await self._file(project, "training_file", request.training_file)
        validation = None
        if request.validation_file is not None:
            validation = await self._file(project, "validation_file", request.validation_file)
        await self._check_served(model, entry, wanted)
        judges = await self._judges.find(project, model, wanted)
        job_id = random_id("ftjob-")
        training_blob = await self._pin("training_file", training, f"jobs/{job_id}/training")
        validation_blob = None
        if validation is not None:
            validation_blob = await self._pin(
                "validation_file", validation, f"jobs/{job_id}/validation"
            )
        chosen_seed = secrets.randbelow(MAX_SEED + 1) if request.seed is None else request.seed
        plan = JobPlan(
            model=request.model,
            base=model.base,
            engine_model=model.engine_model,
            weights_path=weights_path,
            adapter_path=model.path if model.adapter_uid is not None else None,
            training_file=training.id,
            training_blob=training_blob,
            validation_file=request.validation_file,
            validation_blob=validation_blob,
            method={"type": wanted.method.name},
            seed=chosen_seed,
            suffix=request.suffix,
            metadata=request.metadata,
            reserved_model=fine_tuned_id(model.base, project.slug, request.suffix),
            training_filename=training.filename,
            validation_filename="" if validation is None else validation.filename,
            dataset=dataset,
            aliased=None if model.id == request.model else model.id,
            **judges,
        )
        return _new_job(job_id, project, plan, wanted)

    async def unpin(self, job: Job) -> None:
        """The job was not kept after all."""
        for blob in (job.plan.training_blob, job.plan.validation_blob):
            if blob is not None:
                await self._blobs.delete(blob)

    async def _file(self, project: Project, param: str, file_id: str) -> File:
        file = await self._store.files.find(project.id, file_id)
        if file is None:
            raise InvalidRequest(
                f"invalid {param}: {file_id}: no such file", param=param, code="invalid_value"
            )
        if file.purpose != FINE_TUNE:
            raise InvalidRequest(
                f"invalid {param}: {file_id}: its purpose is '{file.purpose}', "
                f"but '{FINE_TUNE}' is needed",
                param=param,
                code="invalid_value",
            )
        return file

    async def _pin(self, param: str, file: File, blob: str) -> str:
        """A copy of the job's own, so that deleting the file does not break the job."""
        try:
            await self._blobs.copy(file.blob, blob)
        except FileNotFoundError:
            raise InvalidRequest(
                f"invalid {param}: {file.id}: no such file", param=param, code="invalid_value"
            ) from None
        return blob

    async def _weights_path(self, model: Model, project: Project) -> str:
        """Directory of the whole model that training starts from."""
        whole = model
        if model.engine_model != model.id:
            found = await self._store.models.find(model.engine_model, project.id)
            if found is None:
                raise _not_available(model)
            whole = found
        if not (Path(whole.path) / "config.json").exists():
            entry = self._config.model(whole.id)
            if entry is not None and entry.hub is not None and whole.path == entry.path:
                raise Unavailable(f"The model '{whole.id}' is being downloaded. Please retry.")
            raise _not_available(model)
        return whole.path

    def _check_trainable(
        self, model: Model, wanted: Hyperparameters
    ) -> tuple[ModelEntry, Hyperparameters]:
        """The base's entry, and the settings with what an earlier fine-tune prescribes. Raises
        InvalidRequest."""
        entry = self._config.model(model.base)
        if entry is None:
            raise _not_available(model)
        found = find_conflict(lambda name: getattr(wanted, name, None))
        if found is not None:
            raise unsupported_value(f"{wanted.where()}.{found.name}", found.reason)
        _check_places(wanted)
        _check_alternatives(wanted)
        if wanted.method.makes_reward_model:
            check_scores(entry)
        is_lora = wanted.kind is FinetuningType.LORA
        if not is_lora and model.adapter_uid is not None:
            raise unsupported_value(
                f"{wanted.where()}.finetuning_type",
                f"'{model.id}' is a LoRA adapter; only LoRA training can go on from it.",
            )
        if is_lora and wanted.of("create_new_adapter") and model.adapter_uid is None:
            raise unsupported_parameter(
                f"{wanted.where()}.create_new_adapter",
                f"'{model.id}' is no adapter: a new one is trained in any case.",
            )
        if model.adapter_uid is not None and not wanted.of("create_new_adapter"):
            wanted = _continue_adapter(model, wanted)
        wanted = merged_where_needed(entry, wanted)
        check_entry(entry, wanted.result, wanted.where())
        return entry, wanted

    async def _check_served(self, model: Model, entry: ModelEntry, wanted: Hyperparameters) -> None:
        """By the engine that would serve the result. Raises ApiError."""
        kind = wanted.result
        hello = self._find_hello(model.engine_model) or self._find_hello(entry.id)
        if kind is FinetuningType.LORA:
            check_rank(entry, wanted.rank, hello, wanted.where())
        if hello is not None:
            check_engine(entry, hello, kind, wanted.where())
        else:
            await check_starts(self._config.run_dir, entry)

    def _check_size(self, shape: BaseShape, model: Model, wanted: Hyperparameters) -> None:
        """Raises InvalidRequest."""
        cutoff_len: int | None = wanted.of("cutoff_len")
        if cutoff_len is not None:
            limits = [self._config.training.max_cutoff_len, shape.context_len or MAX_COUNT]
            if cutoff_len > min(limits):
                raise unsupported_value(
                    f"{wanted.where()}.cutoff_len",
                    f"'{model.id}' is trained on examples of {min(limits)} tokens at most: the "
                    "shorter of the model's context and what this server allows.",
                )
        if wanted.learning_rate_multiplier != AUTO or wanted.of("learning_rate") is not None:
            _check_rate(model, wanted, learning_rate(wanted, shape.hidden_size))


def _check_rate(model: Model, wanted: Hyperparameters, rate: float) -> None:
    """Raises InvalidRequest."""
    optim: str = wanted.of("optim")
    most = max_learning_rate(optim)
    if rate <= most:
        return
    absolute: float | None = wanted.of("learning_rate")
    name, why = "learning_rate", "Training"
    if absolute is None:
        name = "learning_rate_multiplier"
        why = f"It makes a learning rate of {rate:.3g} for '{model.id}', and training"
    where, given = f"{wanted.where()}.{name}", float(getattr(wanted, name))
    raise InvalidRequest(
        f"Invalid '{where}': decimal above maximum value. Expected a value <= "
        f"{given * most / rate:.4g}, but got {given:g} instead. "
        f"{why} with {optim} diverges beyond {most:g}.",
        param=where,
        code="decimal_above_max_value",
    )


def _check_validation(request: CreateJob, wanted: Hyperparameters) -> None:
    """Raises InvalidRequest."""
    has_file, val_size = request.validation_file is not None, wanted.of("val_size")
    if has_file and wanted.method.stage is Stage.PPO:
        raise unsupported_parameter(
            "validation_file", "Method ppo has no loss on rows that it does not train on."
        )
    if val_size and has_file:
        raise unsupported_parameter(
            f"{wanted.where()}.val_size", "It is for jobs without a 'validation_file'."
        )
    for name in ("eval_steps", "eval_strategy", "early_stopping_steps", "load_best_model_at_end"):
        if wanted.of(name) not in (None, 0, "no") and not (has_file or val_size):
            raise unsupported_parameter(
                f"{wanted.where()}.{name}",
                "It needs a 'validation_file' or a 'val_size' to be evaluated on.",
            )


def _check_method(request: CreateJob) -> None:
    if request.method is not None and request.method.type not in METHODS:
        there = ", ".join(f"'{name}'" for name in METHODS)
        raise unsupported_value(
            "method.type",
            f"'{request.method.type}' is not available on this server, only {there}.",
        )
    if request.integrations:
        raise unsupported_parameter("integrations", "This server reports to none.")


def _not_available(model: Model, why: str = "") -> InvalidRequest:
    return InvalidRequest(
        f"The model '{model.id}' is not available for fine-tuning. {why}".rstrip(),
        param="model",
        code="model_not_available",
    )


def _check_places(wanted: Hyperparameters) -> None:
    """Raises InvalidRequest for a parameter of another kind of fine-tuning, another method or
    another loss."""
    for name, declared in settable().items():
        if name in wanted.model_fields_set and not declared.is_of(kind=wanted.kind):
            raise unsupported_parameter(
                f"{wanted.where()}.{name}",
                f"It belongs to {declared.home}, not to finetuning_type '{wanted.kind}'.",
            )
    method = wanted.method
    for name, value in method.settled.items():
        if wanted.of(name) != value:
            raise unsupported_value(
                f"{wanted.where()}.{name}", f"It is '{value}' for method.type '{method.name}'."
            )
    for name, loss in LOSS_OF.items():
        if name in wanted.model_fields_set and wanted.of("pref_loss") != loss:
            raise unsupported_parameter(
                f"{wanted.where()}.{name}", f"It belongs to pref_loss '{loss}'."
            )


def _check_alternatives(wanted: Hyperparameters) -> None:
    """Raises InvalidRequest for two names of the same thing, and for a batch that is too large."""
    for name, declared in settable().items():
        other = declared.place.instead_of
        if other and getattr(wanted, name, None) is not None and getattr(wanted, other) != AUTO:
            raise unsupported_value(
                f"{wanted.where()}.{name}", f"It and '{other}' exclude each other."
            )
    if (batch_given(wanted) or 1) > MAX_BATCH:
        raise unsupported_value(
            f"{wanted.where()}.gradient_accumulation_steps",
            f"Times 'per_device_train_batch_size' it must be {MAX_BATCH} at most.",
        )


def _continue_adapter(model: Model, wanted: Hyperparameters) -> Hyperparameters:
    """An adapter goes on in its own shape; asking for another one is refused."""
    try:
        config = json.loads((Path(model.path) / "adapter_config.json").read_bytes())
        rank, alpha = int(config["r"]), int(config["lora_alpha"])
    except (OSError, ValueError, KeyError) as error:
        raise _not_available(model) from error
    for name, value in (("lora_rank", rank), ("lora_alpha", alpha)):
        if name in wanted.model_fields_set and wanted.of(name) not in (None, value):
            raise unsupported_value(
                f"{wanted.where()}.{name}", f"'{model.id}' has {value}, which cannot change."
            )
    kinds = {name: bool(config.get(name)) for name in ("use_rslora", "use_dora")}
    for name, is_so in kinds.items():
        if wanted.of(name) != is_so and name in wanted.model_fields_set:
            raise unsupported_parameter(
                f"{wanted.where()}.{name}", f"The kind of '{model.id}' cannot change."
            )
    for name in ("lora_target", "additional_target", "pissa_init"):
        if name in wanted.model_fields_set and wanted.of(name):
            raise unsupported_parameter(
                f"{wanted.where()}.{name}",
                f"The layers of '{model.id}' cannot change: set 'create_new_adapter'.",
            )
    return wanted.model_copy(update={"lora_rank": rank, "lora_alpha": alpha, **kinds})


def fine_tuned_id(base: str, organization: str, suffix: str | None) -> str:
    """`ft:<base>:<org>:<suffix>:<8 characters>`; of the suffix, what may stand in an id."""
    shown = re.sub(r"[^a-z0-9_.]+", "-", (suffix or "").lower()).strip("-")
    return f"ft:{base}:{organization}:{shown}:{random_id('', _MODEL_ID_CHARS)}"


def _new_job(job_id: str, project: Project, plan: JobPlan, wanted: Hyperparameters) -> Job:
    return Job(
        id=job_id,
        project_id=project.id,
        plan=plan,
        status=JobStatus.VALIDATING_FILES,
        created_at=int(time.time()),
        finished_at=None,
        estimated_finish=None,
        fine_tuned_model=None,
        hyperparameters=wanted.model_dump(mode="json"),
        trained_tokens=None,
        result_files=(),
        error=None,
        owner=None,
        trainer_deaths=0,
        train_seq=0,
    )
