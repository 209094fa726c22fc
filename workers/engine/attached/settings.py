"""The settings of an attached model entry."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Flavour(StrEnum):
    VLLM = "vllm"
    SGLANG = "sglang"


class AttachedSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    url: str
    """The server's root, without `/v1`."""
    api_key: str | None = None
    flavour: Flavour | None = None
    """Which server it is. None: it is asked."""
    served_model: str | None = None
    """The base model's name on the server. None: the one it lists, if it is one."""
    allow_adapters: bool = False
    """Whether adapters may be loaded into the server, which must see their files under the same
    paths; vLLM must have been started with VLLM_ALLOW_RUNTIME_LORA_UPDATING, SGLang with
    --enable-lora."""
    connect_timeout_s: float = 5.0
    silence_timeout_s: float = 300.0
    """How long a request may wait for its next token."""

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError("url must begin with http:// or https://")
