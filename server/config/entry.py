"""A model entry: one base model, and the engine workers that serve it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from server.config.addresses import check_address
from server.config.aliases import plain_entry
from server.config.generation import GenerationDefaults
from server.config.model_names import FINE_TUNE_PREFIX, alias_fault
from server.config.section import Section
from server.hubs.names import Hub
from templates.dialects import DIALECTS
from workers.contract.lora_ranks import VLLM_RANKS, vllm_rank


class EngineKind(StrEnum):
    HF = "hf"
    VLLM = "vllm"
    SGLANG = "sglang"
    ATTACHED = "attached"
    SCRIPTED = "scripted"


_ATTACHED_ONLY = frozenset({"url", "api_key", "flavour", "served_model", "allow_adapters"})


class AdapterEntry(Section):
    """A LoRA directory (peft's or LLaMA-Factory's) served beside its base model, to every project,
    under an id of its own."""

    id: str = Field(min_length=1)
    path: str

    @field_validator("id")
    @classmethod
    def _is_no_fine_tunes_id(cls, adapter_id: str) -> str:
        if adapter_id.startswith(FINE_TUNE_PREFIX):
            raise ValueError("ids that begin with ft: are given to what jobs train")
        return adapter_id


class ModelEntry(Section):
    """One base model and the engine workers that serve it."""

    id: str = Field(min_length=1)
    aliases: tuple[str, ...] = Field(default=(), max_length=100)
    """Further names of the model (`gpt-4o-mini-2024-07-18`), for every project."""
    path: str
    """A local directory, or the model's name on a hub."""
    hub: Hub | None = None
    """Where `path` is a name. None is a local directory; when the file is read, a path that is no
    directory is a name on Hugging Face, or on the hub that USE_MODELSCOPE_HUB or USE_OPENMIND_HUB
    chooses."""
    revision: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][\w./-]*$")
    """A branch, a tag or a commit on the hub; None is its main branch."""
    hub_token: str | None = Field(default=None, repr=False)
    """For private and gated models; None is what the hub's own variable holds."""
    cache_dir: Path | None = None
    """Where downloads are kept; None is where the hub's own library keeps them."""
    engine: EngineKind = EngineKind.HF
    python: str | None = None
    """Interpreter of the worker's environment. None is the one that runs Tuneyard, and for vllm and
    sglang the one that `tuneyard env create` made."""
    template: str | None = None
    """Name of a chat format; None is the model's own Jinja template."""
    default_system: str | None = None
    """The system message of conversations that have none, in serving and training."""
    tool_format: str | None = None
    """The tool-call dialect, where it is not the chat format's own."""
    generation: GenerationDefaults = GenerationDefaults()
    dtype: str = "auto"
    device: str = "auto"
    max_model_len: int | None = Field(default=None, ge=1)
    max_num_seqs: int = Field(default=32, ge=1)
    max_loras: int = Field(default=8, ge=0)
    max_lora_rank: int = Field(default=64, ge=1)
    adapters: tuple[AdapterEntry, ...] = ()
    """Served beside the base, without a job; `merged_adapters` of the hf engine's settings (or
    LLaMA-Factory's `adapter_name_or_path`) change the base itself."""
    replicas: int = Field(default=1, ge=0)
    """Engine workers on this host."""
    addresses: tuple[str, ...] = ()
    """`tls:host:port`, or `tcp:host:port` where nothing is encrypted, of workers on other hosts,
    each started there by `tuneyard engine`."""
    token_file: str | None = None
    """Holds the secret that the workers at `addresses` are asked with; one for all of them."""
    ca_file: Path | None = None
    """Certificates (PEM) that vouch for those of the `tls:` addresses; None: this system's
    authorities."""
    insecure: bool = False
    """Whether `tcp:` may lead to another host, for a private network or a tunnel."""
    max_concurrent: int | None = Field(default=None, ge=1)
    """Requests under way at once on one gateway, for this model and what was fine-tuned from it;
    more wait in line. None is no limit but the engines' own."""
    max_queued: int = Field(default=1024, ge=0)
    """Requests that may wait in that line; one more is a 503."""
    shared_prefix_cache: bool = False
    """Whether prompts of one project may use what was computed for another's that begin alike:
    faster where projects send the same long beginnings, but answers come sooner, and
    `cached_tokens` is higher, after another project has sent the same."""
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
    flavour: Literal["vllm", "sglang"] | None = None
    """What kind of server it is; null: it is asked."""
    served_model: str | None = None
    """The model's name on the attached server; None where it serves only one."""
    allow_adapters: bool = False
    """Whether adapters may be loaded into the attached server."""

    @model_validator(mode="before")
    @classmethod
    def _take_aliases(cls, entry: Any) -> Any:
        return entry if not isinstance(entry, dict) else plain_entry(entry)

    @field_validator("aliases")
    @classmethod
    def _aliases_are_names(cls, aliases: tuple[str, ...]) -> tuple[str, ...]:
        for alias in aliases:
            if (fault := alias_fault(alias)) is not None:
                raise ValueError(f"{alias!r} cannot be an alias: {fault}")
        return aliases

    @field_validator("tool_format")
    @classmethod
    def _tool_format_is_known(cls, name: str | None) -> str | None:
        if name is not None and name not in DIALECTS:
            known = ", ".join(DIALECTS)
            raise ValueError(f"there is no tool-call dialect {name!r}; one of: {known}")
        return name

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

    @model_validator(mode="after")
    def _has_workers(self) -> ModelEntry:
        if not self.replicas and not self.addresses:
            raise ValueError("replicas may be 0 only with addresses of workers on other hosts")
        if self.addresses and self.token_file is None:
            raise ValueError("addresses need a token_file")
        if self.token_file is not None and not self.addresses:
            raise ValueError("token_file is for workers at addresses, and there are none")
        for address in self.addresses:
            check_address(address, insecure=self.insecure)
        if self.ca_file is not None and not any(a.startswith("tls:") for a in self.addresses):
            raise ValueError("ca_file is for tls: addresses, and there are none")
        if self.insecure and not any(a.startswith("tcp:") for a in self.addresses):
            raise ValueError("insecure is for tcp: addresses, and there are none")
        if len(set(self.addresses)) < len(self.addresses):
            raise ValueError("addresses: one appears twice")
        return self

    @model_validator(mode="after")
    def _can_serve_its_adapters(self) -> ModelEntry:
        if self.adapters and not self.max_loras:
            raise ValueError("adapters need max_loras of at least 1")
        if self.adapters and self.engine is EngineKind.ATTACHED and not self.allow_adapters:
            raise ValueError("adapters of an attached engine need allow_adapters: true")
        if self.engine is EngineKind.VLLM and self.max_loras and not vllm_rank(self.max_lora_rank):
            raise ValueError(f"max_lora_rank must be at most {VLLM_RANKS[-1]} with vllm")
        return self

    @property
    def num_engines(self) -> int:
        return self.replicas + len(self.addresses)

    @property
    def merges_adapters(self) -> bool:
        """Whether the weights served are other than those in the directory."""
        return bool(self.settings.get("merged_adapters"))

    @property
    def engine_settings(self) -> dict[str, Any]:
        """The engine's own settings, as its worker reads them."""
        if self.engine is not EngineKind.ATTACHED:
            return self.settings
        own = {name: getattr(self, name) for name in sorted(_ATTACHED_ONLY)}
        return {**own, **self.settings}
