"""How a model's answers are generated where a request does not say. The names are a request's;
those that LLaMA-Factory gives them are taken too."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from server.config.section import Section
from server.wire import Penalty, Probability, StopText, Temperature

_MAX_LENGTH = (
    "max_length counts the prompt too: set the entry's max_model_len for both, or max_tokens for "
    "the answer"
)


class GenerationDefaults(Section):
    """Over these go the request's own values; under them what the model's `generation_config.json`
    has of temperature, top_p, top_k, min_p and repetition_penalty."""

    model_config_file: bool = True
    """Whether the model's `generation_config.json` counts."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Less where the context has no room for so many."""
    temperature: Temperature | None = None
    top_p: Probability | None = None
    top_k: int | None = Field(default=None, ge=-1)
    min_p: Probability | None = None
    repetition_penalty: float | None = Field(default=None, gt=0)
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    stop: tuple[StopText, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    skip_special_tokens: bool = True
    enable_thinking: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = (
        None
    )
    thinking_budget: int | None = Field(default=None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _take_aliases(cls, values: Any) -> Any:
        return _plain(dict(values)) if isinstance(values, dict) else values


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Under our own names. Raises ValueError."""
    if "max_new_tokens" in values:
        if "max_tokens" in values:
            raise ValueError("max_new_tokens and max_tokens are the same setting")
        values["max_tokens"] = values.pop("max_new_tokens")
    if "max_length" in values:
        raise ValueError(_MAX_LENGTH)
    for name, neutral in (("num_beams", 1), ("length_penalty", 1.0)):
        if values.pop(name, neutral) != neutral:
            raise ValueError(f"{name} can only be {neutral}: there is no beam search")
    samples = values.pop("do_sample", True)
    if not isinstance(samples, bool):
        raise ValueError("do_sample must be true or false")
    if not samples:
        if values.get("temperature"):
            raise ValueError("do_sample: false and a temperature contradict each other")
        values["temperature"] = 0.0
    return values
