"""`tuneyard.yaml`: what the operator sets, with every default in one place.

Unknown keys are refused. `HOST`, `PORT`, `DATA` and `API_KEY` of the environment win over the file.
Relative paths are relative to the file (or to the working directory without one).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from server.engine_aliases import plain_entry

BUNDLED_MODEL = Path(__file__).resolve().parent.parent / "deploy" / "model" / "tuneyard-mini"


SETTING_VARIABLES = ("HOST", "PORT", "DATA", "API_KEY")


class ConfigError(Exception):
    """The configuration cannot be used; the message is for the operator."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EngineKind(StrEnum):
    HF = "hf"
    VLLM = "vllm"
    SGLANG = "sglang"
    ATTACHED = "attached"
    SCRIPTED = "scripted"


_ATTACHED_ONLY = frozenset({"url", "api_key", "flavour", "served_model", "allow_adapters"})


class ModelEntry(_Section):
    """One base model and the engine workers that serve it."""

    id: str = Field(min_length=1)
    path: str
    """A local directory, or a hub id that the worker's libraries resolve."""
    engine: EngineKind = EngineKind.HF
    python: str | None = None
    """Interpreter of the worker's environment. None is the one that runs Tuneyard, and for vllm and
    sglang the one that `tuneyard env create` made."""
    template: str | None = None
    """Name of a chat format; None is the model's own Jinja template."""
    dtype: str = "auto"
    device: str = "auto"
    max_model_len: int | None = Field(default=None, ge=1)
    max_num_seqs: int = Field(default=32, ge=1)
    max_loras: int = Field(default=8, ge=0)
    max_lora_rank: int = Field(default=64, ge=1)
    replicas: int = Field(default=1, ge=1)
    owned_by: str = "tuneyard"
    settings: dict[str, Any] = {}
    """Passed to the engine as they are (`gpu_memory_utilization`, ...); the engine refuses to start
    with one it does not know."""
    trust_remote_code: bool = False
    """Whether Python code in the model's directory may run, in the worker."""
    url: str | None = None
    """Of the server that an attached engine is, without `/v1`; `path` is then a local copy of its
    tokenizer and config."""
    api_key: str | None = Field(default=None, repr=False)
    """Of the attached server."""
    flavour: Literal["vllm"] = "vllm"
    """What kind of server it is."""
    served_model: str | None = None
    """The model's name on the attached server; None where it serves only one."""
    allow_adapters: bool = False
    """Whether adapters may be loaded into the attached server."""

    @model_validator(mode="before")
    @classmethod
    def _take_aliases(cls, entry: Any) -> Any:
        return entry if not isinstance(entry, dict) else plain_entry(entry)

    @model_validator(mode="after")
    def _only_attached_engines_have_urls(self) -> ModelEntry:
        if self.engine is EngineKind.ATTACHED:
            if self.url is None:
                raise ValueError("an attached engine needs a url")
            return self
        for name in sorted(_ATTACHED_ONLY):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is only for engine: attached")
        return self

    @property
    def engine_settings(self) -> dict[str, Any]:
        """The engine's own settings, as its worker reads them."""
        if self.engine is not EngineKind.ATTACHED:
            return self.settings
        own = {name: getattr(self, name) for name in sorted(_ATTACHED_ONLY)}
        return {**own, **self.settings}


class Training(_Section):
    max_concurrent_jobs: int = Field(default=1, ge=1)
    python: str | None = None
    device: str = "auto"
    compute_dtype: str = "float32"
    max_restarts: int = Field(default=3, ge=0)
    """How often a trainer that died is started again before its job fails."""
    warm_trainers: int = Field(default=1, ge=0, le=1)
    """Trainer processes that have imported their libraries and wait for a job: it starts seconds
    sooner, for about 0.5 GB of memory."""


class Limits(_Section):
    max_body_bytes: int = Field(default=32 * 1024 * 1024, ge=1)
    max_file_bytes: int = Field(default=512 * 1024 * 1024, ge=1)
    max_requests_per_model: int = Field(default=2048, ge=1)
    """Generations under way or waiting on one gateway for one engine model; more is a 503."""
    max_requests_per_project: int = Field(default=2048, ge=1)
    """Generations under way for one project on one gateway; more is a 429."""
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


class Config(_Section):
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

    @model_validator(mode="after")
    def _model_ids_are_unique(self) -> Config:
        ids = [entry.id for entry in self.models]
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

    def model(self, model_id: str) -> ModelEntry | None:
        return next((entry for entry in self.models if entry.id == model_id), None)


def load_config(path: Path | None, environ: Mapping[str, str] = os.environ) -> Config:
    """The file's settings under the environment's. Raises ConfigError."""
    settings = {} if path is None else _read(path)
    for name in SETTING_VARIABLES:
        if environ.get(name):
            settings[name.lower()] = environ[name]
    if "models" not in settings:
        settings["models"] = [{"id": "tuneyard-mini", "path": str(BUNDLED_MODEL)}]
    try:
        config = Config.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(_describe(error, path)) from error
    return _anchored(config, path)


def _read(path: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: expected settings by name, one `name: value` a line")
    return settings


def _describe(error: ValidationError, path: Path | None) -> str:
    lines = [
        f"  {'.'.join(str(part) for part in detail['loc']) or 'settings'}: {detail['msg']}"
        for detail in error.errors()
    ]
    return "\n".join([f"{path or 'environment'} cannot be used:", *lines])


def _anchored(config: Config, path: Path | None) -> Config:
    """`data` (unless from the environment) and model directories made absolute."""
    base = Path.cwd() if path is None else path.resolve().parent
    models = tuple(
        entry.model_copy(update={"path": str((base / entry.path).resolve())})
        if (base / entry.path).is_dir()
        else entry
        for entry in config.models
    )
    data = config.data if "DATA" in os.environ else base / config.data
    return config.model_copy(
        update={
            "data": data.resolve(),
            "models": models,
            "templates": tuple((base / folder).resolve() for folder in config.templates),
        }
    )
