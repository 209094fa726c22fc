"""The service's own sections: training, limits, and the whole that holds them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from server.config.entry import ModelEntry
from server.config.media import Media
from server.config.prices import Price
from server.config.section import Section
from server.config.webhooks import WebhookEntry

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#@*]+")


class Training(Section):
    max_concurrent_jobs: int = Field(default=1, ge=1)
    python: str | None = None
    device: str = "auto"
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    max_cutoff_len: int = Field(default=16_384, ge=2)
    """Tokens of an example: of jobs that set no `cutoff_len`, and the most that one may set. The
    model's context is the limit where it is shorter. Memory grows with it, and attention's time
    with its square."""
    max_restarts: int = Field(default=3, ge=0)
    """How often a trainer that died is started again before its job fails."""
    reward_hosts: tuple[str, ...] = ()
    """Hosts (`host` or `host:port`) whose servers a ppo job may have score its answers
    (`reward_model_type: api`), wherever they are. The answers are sent there."""
    warm_trainers: int = Field(default=1, ge=0, le=1)
    """Trainer processes that have imported their libraries and wait for a job: it starts seconds
    sooner, for about 0.5 GB of memory."""


class Limits(Section):
    max_body_bytes: int = Field(default=32 * 1024 * 1024, ge=1)
    max_file_bytes: int = Field(default=512 * 1024 * 1024, ge=1)
    max_upload_bytes: int = Field(default=8 * 1024**3, ge=1)
    """Of a file that comes in parts (`/v1/uploads`)."""
    max_requests_per_model: int = Field(default=2048, ge=1)
    """Generations under way or waiting on one gateway for one engine model; more is a 503."""
    max_requests_per_project: int = Field(default=2048, ge=1)
    """Generations under way for one project on one gateway; more is a 429."""
    requests_per_minute: int | None = Field(default=None, ge=1)
    """Generating requests that may begin; more is a 429. None is no limit, and no x-ratelimit
    headers."""
    tokens_per_minute: int | None = Field(default=None, ge=1)
    """Prompt and output tokens, taken when a request is over."""
    per_minute_of: Literal["project", "key"] = "project"
    """Whose the limits per minute are."""
    keep_alive_s: float = Field(default=10.0, gt=0, le=15)
    """No stream is silent for longer: a comment is written into it first."""
    max_fine_tune_engines: int = Field(default=4, ge=1)
    """Engine workers of full fine-tunes (and their checkpoints) that run at a time; each starts at
    the first request for it, and for another the one that was not used for longest is stopped."""
    fine_tune_idle_s: float = Field(default=900.0, gt=0)
    """A full fine-tune's engine worker that nobody has asked for so long is stopped."""
    max_start_wait_s: float = Field(default=60.0, ge=0)
    """How long a request waits for the engine worker of a full fine-tune to start before it gets
    a 503."""
    max_connections: int | None = Field(default=None, ge=1)
    """Connections of callers on one gateway; more are a 503, and only the probes are answered on
    them. None: as many as the limit of open files leaves."""
    head_timeout_s: float = Field(default=20.0, gt=0)
    """A request's head must have come so long after its first byte (or its connection); else it is
    a 408."""
    body_timeout_s: float = Field(default=30.0, gt=0)
    """How long a body may come more slowly than `min_body_bytes_per_s`; then it is a 408."""
    min_body_bytes_per_s: int = Field(default=1024, ge=1)
    send_timeout_s: float = Field(default=60.0, gt=0)
    """A caller who takes nothing of a whole answer for so long is hung up on."""
    max_unread_bytes: int = Field(default=32 * 1024 * 1024, ge=65536)
    """What a stream may hold that its caller has not taken yet; past it, it is ended."""
    max_answer_bytes: int = Field(default=64 * 1024 * 1024, ge=65536)
    """What an answer that is not streamed may take up (as it is counted while it is generated);
    past it, it is ended with a 400."""
    batch_lines_at_once: int = Field(default=256, ge=1, le=4096)
    """Requests of batches that one gateway has under way."""
    max_batches_per_project: int = Field(default=100, ge=1)
    """Batches of a project that have not ended; creating one more is a 429."""
    running_batches_per_project: int = Field(default=4, ge=1)
    """Of them, those under way at once; the others wait as `validating`."""
    background_responses: int = Field(default=256, ge=1)
    """Background responses that one gateway has under way; one more is a 429."""
    background_responses_per_project: int = Field(default=64, ge=1)
    """Those of one project, on all gateways; one more is a 429."""
    response_days: float = Field(default=30.0, gt=0, le=3650)
    """How long responses are kept that are created with `store`, as they are by default."""


class Cors(Section):
    """Which web pages may call the service from a browser."""

    allow_origins: tuple[str, ...] | None = None
    """Origins such as `https://app.example.com`, or `*` for all. None: pages of this machine, if
    the service listens for this machine only, else none."""

    @field_validator("allow_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for origin in origins or ():
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is not an origin such as https://app.example.com")
        return origins


class Config(Section):
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    data: Path = Path("data")
    api_key: str | None = None
    """The first key; None makes one on the first start."""
    database: str | None = None
    """SQLAlchemy URL; None is SQLite in the data directory."""
    models: tuple[ModelEntry, ...] = ()
    templates: tuple[Path, ...] = ()
    """Folders with chat formats of the operator's own."""
    training: Training = Training()
    limits: Limits = Limits()
    media: Media = Media()
    cors: Cors = Cors()
    webhooks: tuple[WebhookEntry, ...] = Field(default=(), max_length=32)
    """Told of how jobs end."""
    prices: dict[str, Price] = Field(default_factory=dict[str, Price])
    """By model id, for `/v1/organization/costs`; a fine-tune has its base's unless it is named."""
    currency: str = Field(default="usd", pattern=r"^[a-z]{3}$")
    """Of the prices (ISO 4217, in lower case)."""

    @model_validator(mode="after")
    def _webhooks_are_unique(self) -> Config:
        urls = [entry.url for entry in self.webhooks]
        if len(set(urls)) < len(urls):
            raise ValueError("webhooks: a url appears twice; one entry takes several events")
        return self

    @model_validator(mode="after")
    def _model_ids_are_unique(self) -> Config:
        ids = [entry.id for entry in self.models]
        ids += [adapter.id for entry in self.models for adapter in entry.adapters]
        ids += [alias for entry in self.models for alias in entry.aliases]
        doubles = sorted({entry for entry in ids if ids.count(entry) > 1})
        if doubles:
            raise ValueError(f"model ids appear twice: {', '.join(doubles)}")
        return self

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite+aiosqlite:///{self.data / 'tuneyard.db'}"

    @property
    def files_dir(self) -> Path:
        """Uploaded and produced files, and what jobs pinned of them."""
        return self.data / "files"

    @property
    def jobs_dir(self) -> Path:
        """One directory per job, its trainer's own; finished models end up in `adapters_dir`."""
        return self.data / "jobs"

    @property
    def adapters_dir(self) -> Path:
        """Trained models by content; never changed once there."""
        return self.data / "adapters"

    @property
    def run_dir(self) -> Path:
        """Sockets and spec files of running processes."""
        return self.data / "run"

    @property
    def aliases(self) -> dict[str, str]:
        """The configured model of each of the entries' aliases."""
        return {alias: entry.id for entry in self.models for alias in entry.aliases}

    def model(self, model_id: str) -> ModelEntry | None:
        return next((entry for entry in self.models if entry.id == model_id), None)
