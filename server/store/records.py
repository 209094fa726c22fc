"""What the store gives back: frozen values, one per table row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Generic, TypeVar

T = TypeVar("T")

JsonObject = dict[str, Any]

_VERSION_CHARS = 12
"""Of the content's digest that names an adapter's directory."""


@dataclass(frozen=True, slots=True)
class Project:
    """A tenant. `slug` is the organisation part of its fine-tuned model ids."""

    id: str
    name: str
    slug: str
    created_at: int
    archived_at: int | None = None
    """Its keys end with it; its objects stay."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """Of a project on a model and its fine-tunes, in a minute. None is no limit."""

    requests: int | None = None
    tokens: int | None = None


class KeyOrigin(StrEnum):
    FIRST = "first"
    """Made at the first start."""
    CONFIGURED = "configured"
    """From `API_KEY` or the settings file."""
    CREATED = "created"
    """Made by `tuneyard keys create`."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key with its tenant. The key itself is not kept, only its SHA-256."""

    id: str
    project: Project
    name: str
    prefix: str
    created_at: int
    origin: KeyOrigin
    revoked_at: int | None
    """Unix time in seconds; None for a live key."""
    scopes: frozenset[str] | None = None
    """Parts of the API that it opens (`chat`, `files:read`); None is all."""
    models: frozenset[str] | None = None
    """Models that it may name; None is all of the project's."""
    expires_at: int | None = None
    service_account_id: str | None = None
    """Of a key that an administrator made through the API."""
    rate_limits: Mapping[str, RateLimit] = field(default_factory=dict[str, RateLimit])
    """Of its project, by model."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """What a key that is made may do; by default all that its project may, for ever."""

    name: str
    scopes: frozenset[str] | None = None
    models: frozenset[str] | None = None
    expires_at: int | None = None
    service_account_id: str | None = None
    origin: KeyOrigin = KeyOrigin.CREATED


@dataclass(frozen=True, slots=True)
class AdminKey:
    """Opens `/v1/organization/...` and nothing else. Only its SHA-256 is kept."""

    id: str
    name: str
    prefix: str
    created_at: int
    expires_at: int | None
    revoked_at: int | None


class ActorKind(StrEnum):
    ADMIN_KEY = "admin_key"
    KEY = "key"
    OPERATOR = "operator"
    """Somebody at this machine's command line."""


@dataclass(frozen=True, slots=True)
class Actor:
    kind: ActorKind
    id: str


OPERATOR = Actor(ActorKind.OPERATOR, "operator")


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Who did what, and when."""

    id: str
    at: int
    type: str
    actor: Actor
    project: Project | None
    details: JsonObject


class ModelKind(StrEnum):
    BASE = "base"
    ADAPTER = "adapter"
    FULL = "full"
    CHECKPOINT = "checkpoint"


@dataclass(frozen=True, slots=True)
class Model:
    """One id that can be chatted with.

    `base` is the configured model it descends from (chat format and limits come from there),
    `engine_model` the id under which engines register that serve it: its own for base models and
    full fine-tunes, the base's for adapters. `adapter_uid` is set when it is served as an adapter.
    """

    id: str
    project_id: str | None
    kind: ModelKind
    parent: str | None
    base: str
    engine_model: str
    path: str
    adapter_uid: int | None
    created_at: int
    owned_by: str
    job_id: str | None

    @property
    def adapter_name(self) -> str:
        """What engines know the adapter by, never given to other weights. An adapter of a model
        entry keeps its id when its files change, so there the content's name is part of it."""
        if self.project_id is not None:
            return self.id
        return f"{self.id}@{Path(self.path).name[:_VERSION_CHARS]}"

    @property
    def starts_on_demand(self) -> bool:
        """A full fine-tune: its own engine worker runs while it is used."""
        return self.kind is not ModelKind.BASE and self.adapter_uid is None


@dataclass(frozen=True, slots=True)
class Alias:
    """A further name of a model. `is_own`: a project's, not the configuration's."""

    name: str
    points_to: str
    created_at: int
    is_own: bool


@dataclass(frozen=True, slots=True)
class Permission:
    """A project may use another's fine-tune."""

    id: str
    model_id: str
    project_id: str
    created_at: int


class EngineState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine worker. `address` is `unix:/path` or `tcp:host:port`."""

    id: str
    model_id: str
    address: str
    token: str | None
    state: EngineState
    supervisor_id: str
    pid: int | None
    heartbeat_at: float


@dataclass(frozen=True, slots=True)
class File:
    id: str
    project_id: str
    filename: str
    purpose: str
    num_bytes: int
    status: str
    status_details: str | None
    created_at: int
    expires_at: int | None
    blob: str


class UploadStatus(StrEnum):
    PENDING = "pending"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    """Was pending for an hour. Not kept: the time says it."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that arrives in parts."""

    id: str
    project_id: str
    filename: str
    purpose: str
    num_bytes: int
    """Announced; the parts of the whole must come to it."""
    status: UploadStatus
    created_at: int
    expires_at: int
    file_expires_s: int | None
    """How long the file will be kept; None is for ever."""
    file_id: str | None
    """Of a completed upload."""


@dataclass(frozen=True, slots=True)
class UploadPart:
    """Its bytes are the blob of its id."""

    id: str
    upload_id: str
    num_bytes: int
    created_at: int


class JobStatus(StrEnum):
    VALIDATING_FILES = "validating_files"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        return self in TERMINAL_STATUSES


TERMINAL_STATUSES = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED})


@dataclass(frozen=True, slots=True)
class JobError:
    code: str
    message: str
    param: str | None = None


@dataclass(frozen=True, slots=True)
class JobPlan:
    """What a job was asked to do, as checked at creation; never changes afterwards."""

    model: str
    """As it was asked for."""
    base: str
    """The configured model it descends from."""
    engine_model: str
    """The model whose weights training starts from, and whose engines serve an adapter of it."""
    weights_path: str
    adapter_path: str | None
    """Of the adapter to go on from."""
    training_file: str
    training_blob: str
    validation_file: str | None
    validation_blob: str | None
    method: JsonObject
    """`{"type": ..., <type>: {"hyperparameters": ...}}` as the caller gave it, `auto` filled in."""
    seed: int
    suffix: str | None
    metadata: dict[str, str] | None
    reserved_model: str
    """The id the result will have; shown to the caller only once it can be chatted with."""
    training_filename: str = ""
    """As it was uploaded: it tells the container where the content does not."""
    validation_filename: str = ""
    dataset: JsonObject | None = None
    """What the files' columns mean, as the caller gave it; None: as the columns themselves say."""
    aliased: str | None = None
    """The id of the model, where `model` is an alias."""
    reward_model: str | None = None
    """Of a ppo job: the directory of what scores its answers, or a URL."""
    reward_model_type: str | None = None
    reference_path: str | None = None
    """Of a ppo job that names a reference: the directory of the whole model."""
    reference_adapter_path: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    id: str
    project_id: str
    plan: JobPlan
    status: JobStatus
    created_at: int
    finished_at: int | None
    estimated_finish: int | None
    fine_tuned_model: str | None
    hyperparameters: JsonObject
    trained_tokens: int | None
    result_files: tuple[str, ...]
    error: JobError | None
    owner: str | None
    trainer_deaths: int
    """Trainers that ended without a word since the job was last queued."""
    train_seq: int
    """Number of the last trainer event that is recorded."""


class EventLevel(StrEnum):
    INFO = "info"
    WARN = "warn"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class NewEvent:
    message: str
    level: EventLevel = EventLevel.INFO
    data: JsonObject | None = None
    """Metrics; None makes it a plain message."""
    created_at: int | None = None


@dataclass(frozen=True, slots=True)
class JobEvent:
    id: str
    created_at: int
    level: EventLevel
    message: str
    data: JsonObject | None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    id: str
    job_id: str
    step: int
    model_id: str
    metrics: JsonObject
    created_at: int


@dataclass(frozen=True, slots=True)
class NewCheckpoint:
    step: int
    model_id: str
    path: str
    metrics: JsonObject
    created_at: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Requests and tokens of one key and model in a minute, or some of them."""

    project_id: str
    key_id: str
    model: str
    minute: int
    """The Unix time at which it began."""
    requests: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    embedding_requests: int = 0
    """Those of the requests that were for embeddings or scores."""
    embedding_tokens: int = 0
    """Of the prompt tokens."""
    batch_requests: int = 0
    """Those of the requests that were lines of batches."""
    batch_tokens: int = 0
    """Theirs, of the prompt and completion tokens."""


@dataclass(frozen=True, slots=True)
class Replay:
    """An answer kept under an Idempotency-Key."""

    body_hash: str
    response: str


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Part of a list; `has_more` says whether another page follows."""

    items: tuple[T, ...]
    has_more: bool
