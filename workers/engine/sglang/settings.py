"""The settings of an SGLang model entry, and the server arguments they become."""

from __future__ import annotations

import json
import os
from typing import Any

import msgspec

from workers.engine.rope import RopeScaling, nested_overrides, rope_overrides
from workers.engine.spec import EngineSpec, SpecError


class SglangSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Names and meanings are SGLang's server arguments; None leaves SGLang's own default."""

    mem_fraction_static: float | None = None
    max_total_tokens: int | None = None
    """Tokens of key-value memory; on CPU, where memory is not probed, 8192 unless set."""
    attention_backend: str | None = None
    lora_backend: str | None = None
    sampling_backend: str | None = None
    disable_cuda_graph: bool | None = None
    disable_overlap_schedule: bool | None = None
    chunked_prefill_size: int | None = None
    disable_radix_cache: bool = False
    max_loaded_loras: int | None = None
    """Adapters resident at once; at least `max_loras`, which is how many one batch may mix."""
    tp_size: int = 1
    quantization: str | None = None
    load_format: str | None = None
    rope_scaling: RopeScaling | None = None
    """linear, dynamic, yarn or llama3, or a table of transformers' rope parameters."""
    enable_deterministic_inference: bool = False
    """Makes `seed` work; SGLang wants a flashinfer, fa3 or triton attention backend for it."""


_PASSED_ON = (
    "mem_fraction_static",
    "max_total_tokens",
    "attention_backend",
    "lora_backend",
    "sampling_backend",
    "disable_cuda_graph",
    "disable_overlap_schedule",
    "chunked_prefill_size",
    "disable_radix_cache",
    "tp_size",
    "quantization",
    "load_format",
    "enable_deterministic_inference",
)
_CPU_DEFAULTS: dict[str, Any] = {
    "attention_backend": "torch_native",
    "lora_backend": "torch_native",
    "disable_overlap_schedule": True,
    "max_total_tokens": 8192,
    "mem_fraction_static": 0.2,
}


def adapter_places(spec: EngineSpec, settings: SglangSettings) -> int:
    """Raises SpecError."""
    places = spec.max_loras if settings.max_loaded_loras is None else settings.max_loaded_loras
    if places < spec.max_loras:
        raise SpecError("settings: max_loaded_loras must not be less than max_loras")
    return places


def server_arguments(spec: EngineSpec, settings: SglangSettings) -> dict[str, Any]:
    """Keyword arguments of SGLang's `Engine`. Raises SpecError."""
    device = spec.device.partition(":")[0]
    arguments: dict[str, Any] = {
        "model_path": spec.model_path,
        "dtype": spec.dtype,
        "context_length": spec.max_model_len,
        "max_running_requests": spec.max_num_seqs,
        "trust_remote_code": spec.trust_remote_code,
        "grammar_backend": "xgrammar",
        # Chunks carry what is new, not everything so far.
        "incremental_streaming_output": True,
        "skip_server_warmup": True,
        "sleep_on_idle": True,
        "log_level": "warning",
    }
    if device != "auto":
        arguments["device"] = device
    if device == "cpu":
        arguments |= _CPU_DEFAULTS
    for name in _PASSED_ON:
        value = getattr(settings, name)
        if value is not None:
            arguments[name] = value
    if settings.rope_scaling is not None:
        scaled = rope_overrides(spec.model_path or "", settings.rope_scaling, spec.max_model_len)
        nested = nested_overrides(spec.model_path or "", scaled)
        arguments["json_model_override_args"] = json.dumps(nested)
    if spec.max_loras:
        arguments |= {
            "enable_lora": True,
            "max_lora_rank": spec.max_lora_rank,
            "lora_target_modules": ["all"],
            # SGLang counts the base model as one of a batch's adapters. It must never evict by
            # itself, so it gets one place more than the pool hands out.
            "max_loras_per_batch": spec.max_loras + 1,
            "max_loaded_loras": adapter_places(spec, settings) + 1,
        }
    return arguments


def prepare_environment(spec: EngineSpec) -> None:
    """SGLang reads these when it is imported."""
    # Log-probabilities of the model's own distribution, before the request's temperature.
    os.environ["SGLANG_RETURN_ORIGINAL_LOGPROB"] = "1"
    if spec.device.startswith("cuda:"):
        os.environ["CUDA_VISIBLE_DEVICES"] = spec.device.removeprefix("cuda:")
    if spec.device == "cpu":
        os.environ.setdefault("SGLANG_USE_CPU_ENGINE", "1")
        # Else the first request with a penalty compiles for twenty seconds.
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
