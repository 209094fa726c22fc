"""The engine spec: the one JSON file an engine worker starts from, written by its supervisor.

An unknown field or a wrong type does not decode: a setting is honoured or refused at start.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import msgspec

Settings = TypeVar("Settings")


class SpecError(Exception):
    """The spec file cannot be used; the message says which field and why."""


class BackendName(StrEnum):
    HF = "hf"
    VLLM = "vllm"
    SGLANG = "sglang"
    ATTACHED = "attached"
    SCRIPTED = "scripted"


class EngineSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    model_id: str
    """What `Hello.model` says."""
    backend: BackendName
    listen: str
    """`unix:/path/to.sock` (made with mode 0600) or `tcp:host:port`."""
    model_path: str | None = None
    """A local directory; None only for the scripted backend."""
    token: str | None = None
    """What a TCP client must authenticate with; required there, unused on a unix socket."""
    tls_cert: str | None = None
    """On TCP: a file with the worker's certificate and those that vouch for it (PEM). None: the
    connection is not encrypted."""
    tls_key: str | None = None
    """Its private key; None where it is in the same file."""
    dtype: str = "auto"
    """auto (as the model's config says), float32, bfloat16 or float16."""
    device: str = "auto"
    """auto (CUDA if there is one), cpu, cuda or cuda:N."""
    max_model_len: int | None = None
    """Longest prompt plus output in tokens; None: what the model's config allows."""
    max_num_seqs: int = 32
    """Sequences generated at once."""
    max_waiting: int = 1024
    """Requests that may wait for a place; one more is refused as overloaded."""
    max_loras: int = 8
    """Adapters resident at once; 0 turns LoRA off."""
    max_lora_rank: int = 64
    trust_remote_code: bool = False
    template: str | None = None
    """The named chat format the model is served with, compared at start with the model's own; None
    is the model's own. Prompts come rendered: nothing else depends on it."""
    templates: tuple[str, ...] = ()
    """Folders with chat formats of the operator's own."""
    settings: dict[str, Any] = {}
    """The backend's own settings, decoded strictly by the backend."""
    adapters_dir: str | None = None
    """Where adapters are kept that clients on other hosts send; None: paths are taken as given."""
    drain_timeout_s: float = 3.0
    """After SIGTERM, what requests under way have to end in."""
    parent_fd: int | None = None
    """Read end of a pipe whose other end the parent holds: end-of-file means the parent is gone."""
    pid_file: str | None = None
    """What the worker holds while it lives (`workers.contract.pid_files`). A spec that is removed
    before that takes its word back: the worker leaves."""

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "max_lora_rank"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.max_waiting < 0 or self.max_loras < 0:
            raise ValueError("max_waiting and max_loras must not be negative")
        if self.max_model_len is not None and self.max_model_len < 2:
            raise ValueError("max_model_len must be at least 2")
        if self.backend is not BackendName.SCRIPTED and self.model_path is None:
            raise ValueError(f"model_path is required for backend {self.backend}")
        if not self.listen.startswith(("unix:/", "tcp:")):
            raise ValueError("listen must be unix:/path or tcp:host:port")
        if self.listen.startswith("tcp:") and not self.token:
            raise ValueError("token is required to listen on TCP")
        if self.tls_cert is not None and not self.listen.startswith("tcp:"):
            raise ValueError("tls_cert is for listening on TCP")
        if self.tls_key is not None and self.tls_cert is None:
            raise ValueError("tls_key needs a tls_cert")


def read_spec(path: str | Path) -> EngineSpec:
    """Raises SpecError."""
    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=EngineSpec)
    except (OSError, msgspec.MsgspecError) as error:
        raise SpecError(f"{path}: {error}") from error


def read_settings(settings: dict[str, Any], kind: type[Settings]) -> Settings:
    """A backend's own settings as its struct. Raises SpecError."""
    try:
        return msgspec.convert(settings, kind)
    except msgspec.MsgspecError as error:
        raise SpecError(f"settings: {error}") from error
