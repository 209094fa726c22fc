"""Requests and objects of the fine-tuning API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, create_model

from server.fine_tuning.dataset import Dataset
from server.fine_tuning.hyperparameters import (
    HYPERPARAMETERS,
    Hyperparameters,
    OpenAIHyperparameters,
    method_of,
)
from server.fine_tuning.methods import METHODS, SUPERVISED
from server.paging import Listing
from server.store.records import Checkpoint, Job, JobEvent
from server.wire import several

MetadataKey = Annotated[str, Field(max_length=64)]
MetadataValue = Annotated[StrictStr, Field(max_length=512)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)]

FactoryConfig = Annotated[dict[str, Any], Field(max_length=512)]

REQUIRED = ("model", "training_file")
"""Of a job without a config of LLaMA-Factory's."""
MAX_SEED = 2_147_483_647
MAX_INTEGRATIONS = 16


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _AnyMethod(_Request):
    """Sub-objects of methods other than `type` are allowed and of no effect, as OpenAI's own SDK
    examples send all of them."""

    reinforcement: dict[str, Any] | None = None


def _method() -> Any:
    """With a sub-object for each method, under its name."""
    fields: dict[str, Any] = {"type": (Literal[(*METHODS, "reinforcement")], ...)}
    for name, method in METHODS.items():
        inner: dict[str, Any] = {"hyperparameters": (HYPERPARAMETERS[name] | None, None)}
        part = create_model(method.title, __base__=_Request, __module__=__name__, **inner)
        fields[name] = (part | None, None)
    made = create_model("Method", __base__=_AnyMethod, __module__=__name__, **fields)
    made.__doc__ = _AnyMethod.__doc__
    return made


Method: Any = _method()


def _say_what_is_required(schema: dict[str, Any]) -> None:
    for name in REQUIRED:
        del schema["properties"][name]["default"]
    schema["anyOf"] = [{"required": [*REQUIRED]}, {"required": ["llamafactory"]}]


class CreateJob(_Request):
    model_config = ConfigDict(json_schema_extra=_say_what_is_required)

    model: Annotated[StrictStr, Field(min_length=1, max_length=512)] = ""
    """Required, unless `llamafactory` has `model_name_or_path`."""
    training_file: Annotated[StrictStr, Field(min_length=1, max_length=512)] = ""
    """Required, unless `llamafactory` has `dataset`."""
    validation_file: Annotated[StrictStr, Field(min_length=1, max_length=512)] | None = None
    method: Method | None = None  # pyright: ignore[reportInvalidTypeForm]
    hyperparameters: OpenAIHyperparameters | None = None
    """Deprecated by OpenAI; `method` wins."""
    suffix: Annotated[StrictStr, Field(min_length=1, max_length=64)] | None = None
    seed: Annotated[StrictInt, Field(ge=0, le=MAX_SEED)] | None = None
    integrations: Annotated[list[dict[str, Any]], several(MAX_INTEGRATIONS)] | None = None
    metadata: Metadata | None = None
    dataset: Dataset | None = None
    """Ours: what the columns of the files mean; without it, they are recognised."""
    llamafactory: FactoryConfig | None = None
    """LLaMA-Factory's config of the run, instead of `method`; `docs/llamafactory.md` has its keys.
    Fields beside it stand in place of its own."""

    def wanted(self) -> Hyperparameters:
        """The settings asked for, wherever they were given. Raises KeyError for a method that is
        not there."""
        name = SUPERVISED.name if self.method is None else self.method.type
        of_method = HYPERPARAMETERS[name]
        part = getattr(self.method, name, None)
        if part is not None and part.hyperparameters is not None:
            return part.hyperparameters
        if self.hyperparameters is not None:
            return of_method(**self.hyperparameters.model_dump())
        return of_method()


class JobErrorObject(BaseModel):
    code: str
    message: str
    param: str | None


class JobObject(BaseModel):
    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None
    estimated_finish: int | None
    model: str
    fine_tuned_model: str | None
    organization_id: str
    status: str
    training_file: str
    validation_file: str | None
    result_files: list[str]
    trained_tokens: int | None
    hyperparameters: dict[str, Any]
    method: dict[str, Any]
    seed: int
    integrations: list[dict[str, Any]]
    metadata: dict[str, str] | None
    error: JobErrorObject | None
    user_provided_suffix: str | None
    dataset: dict[str, Any] | None

    @classmethod
    def of(cls, job: Job, organization_id: str) -> JobObject:
        plan, error = job.plan, job.error
        own, method = OpenAIHyperparameters.model_fields, method_of(job)
        return cls(
            id=job.id,
            created_at=job.created_at,
            finished_at=job.finished_at,
            estimated_finish=job.estimated_finish,
            model=plan.model,
            fine_tuned_model=job.fine_tuned_model,
            organization_id=organization_id,
            status=job.status.value,
            training_file=plan.training_file,
            validation_file=plan.validation_file,
            result_files=list(job.result_files),
            trained_tokens=job.trained_tokens,
            hyperparameters={k: v for k, v in job.hyperparameters.items() if k in own}
            if method == SUPERVISED.name
            else {},
            method={"type": method, method: {"hyperparameters": job.hyperparameters}},
            seed=plan.seed,
            integrations=[],
            metadata=plan.metadata,
            error=None
            if error is None
            else JobErrorObject(code=error.code, message=error.message, param=error.param),
            user_provided_suffix=plan.suffix,
            dataset=plan.dataset,
        )


class JobList(BaseModel):
    object: Literal["list"] = "list"
    data: list[JobObject]
    has_more: bool


class EventObject(BaseModel):
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    id: str
    created_at: int
    level: str
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any] | None

    @classmethod
    def of(cls, event: JobEvent) -> EventObject:
        return cls(
            id=event.id,
            created_at=event.created_at,
            level=event.level.value,
            message=event.message,
            type="message" if event.data is None else "metrics",
            data=event.data,
        )


class EventList(BaseModel):
    object: Literal["list"] = "list"
    data: list[EventObject]
    has_more: bool


class CheckpointObject(BaseModel):
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    id: str
    created_at: int
    fine_tuned_model_checkpoint: str
    step_number: int
    metrics: dict[str, Any]
    fine_tuning_job_id: str

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> CheckpointObject:
        return cls(
            id=checkpoint.id,
            created_at=checkpoint.created_at,
            fine_tuned_model_checkpoint=checkpoint.model_id,
            step_number=checkpoint.step,
            metrics=checkpoint.metrics,
            fine_tuning_job_id=checkpoint.job_id,
        )


class CheckpointList(Listing[CheckpointObject]):
    pass
