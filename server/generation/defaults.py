"""What a model's answers are generated with where a request does not say: the operator's defaults
over those of the model's own `generation_config.json`."""

from __future__ import annotations

from typing import Any

import msgspec

from server.config.generation import GenerationDefaults
from server.errors import InternalError
from workers.contract.hello import Capability, Hello
from workers.contract.parts import Sampling

SAMPLING_NEEDS: tuple[tuple[str, Capability], ...] = (
    ("seed", Capability.SEED),
    ("logit_bias", Capability.LOGIT_BIAS),
    ("min_p", Capability.MIN_P),
    ("repetition_penalty", Capability.REPETITION_PENALTY),
    ("min_tokens", Capability.MIN_TOKENS),
)
_NEEDS = dict(SAMPLING_NEEDS)
_NUMBERS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
)


class ModelDefaults(msgspec.Struct, frozen=True):
    sampling: Sampling = Sampling()
    enable_thinking: bool | None = None
    reasoning_effort: str | None = None
    thinking_budget: int | None = None


def model_defaults(entry: GenerationDefaults, hello: Hello) -> ModelDefaults:
    """Raises InternalError where the operator set what the engine cannot do."""
    numbers: dict[str, Any] = {}
    if entry.model_config_file:
        numbers = {name: value for name, value in hello.generation.items() if _can(hello, name)}
    for name in _NUMBERS:
        value = getattr(entry, name)
        if value is None:
            continue
        if not _can(hello, name):
            raise InternalError(f"The model's default '{name}' cannot be honoured by its engine.")
        numbers[name] = value
    if "top_k" in numbers:
        numbers["top_k"] = max(int(numbers["top_k"]), 0)
    sampling = Sampling(
        **numbers,
        max_tokens=entry.max_tokens,
        cap_to_context=entry.max_tokens is not None,
        stop=list(entry.stop),
        stop_token_ids=list(entry.stop_token_ids),
        skip_special_tokens=entry.skip_special_tokens,
    )
    return ModelDefaults(
        sampling, entry.enable_thinking, entry.reasoning_effort, entry.thinking_budget
    )


def _can(hello: Hello, name: str) -> bool:
    return name not in _NEEDS or _NEEDS[name] in hello.capabilities
