"""The settings of a vLLM model entry, and the engine arguments they become."""

from __future__ import annotations

import os
from typing import Any, Literal

import msgspec

from workers.contract.lora_ranks import VLLM_RANKS, vllm_rank
from workers.engine.rope import RopeScaling, nested_overrides, rope_overrides
from workers.engine.spec import EngineSpec, SpecError

MAX_LOGPROBS = 20


class VllmSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Names and meanings are vLLM's engine arguments; None leaves vLLM's own default."""

    gpu_memory_utilization: float | None = None
    kv_cache_memory_bytes: int | None = None
    cpu_kv_cache_gib: int = 1
    """Key-value memory on CPU, in GiB."""
    enforce_eager: bool | None = None
    enable_prefix_caching: bool = True
    block_size: int | None = None
    max_num_batched_tokens: int | None = None
    max_cpu_loras: int | None = None
    """Adapters resident at once; at least `max_loras`, which is how many one batch may mix."""
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    quantization: str | None = None
    load_format: str | None = None
    cpu_offload_gb: float | None = None
    hf_overrides: dict[str, Any] | None = None
    attention_backend: str | None = None
    rope_scaling: RopeScaling | None = None
    """linear, dynamic, yarn or llama3, or a table of transformers' rope parameters."""
    task: Literal["generate", "embed", "score"] | None = None
    """None: what the model's files say. A vLLM engine that embeds or scores cannot generate."""
    pooling: Literal["mean", "last", "cls"] | None = None
    """How a model that embeds does so; None: what the model ships. This and the next three have no
    meaning for a model that generates, and are refused there."""
    normalize: bool | None = None
    """Whether embeddings have length 1. None: what the model's modules.json says, else yes."""
    is_matryoshka: bool | None = None
    """Whether embeddings may be cut short (`dimensions`). None: what the model's config says."""
    matryoshka_dimensions: list[int] | None = None
    """The only lengths they may be cut to."""
    image_max_pixels: int = 768 * 768
    """Pictures with more pixels are made smaller first, as LLaMA-Factory does."""
    image_min_pixels: int = 32 * 32
    """Pictures with fewer pixels are made larger first."""

    def __post_init__(self) -> None:
        if not 1 <= self.image_min_pixels <= self.image_max_pixels:
            raise ValueError("image_min_pixels must be from 1 to image_max_pixels")


POOLING_SETTINGS = ("pooling", "normalize", "is_matryoshka", "matryoshka_dimensions")


def adapter_places(spec: EngineSpec, settings: VllmSettings) -> int:
    """Raises SpecError."""
    places = spec.max_loras if settings.max_cpu_loras is None else settings.max_cpu_loras
    if places < spec.max_loras:
        raise SpecError("settings: max_cpu_loras must not be less than max_loras")
    return places


def engine_arguments(spec: EngineSpec, settings: VllmSettings, *, on_cpu: bool) -> dict[str, Any]:
    """Keyword arguments of `AsyncEngineArgs`. Raises SpecError."""
    arguments: dict[str, Any] = {
        "model": spec.model_path,
        "dtype": spec.dtype,
        "max_model_len": spec.max_model_len,
        "max_num_seqs": spec.max_num_seqs,
        "trust_remote_code": spec.trust_remote_code,
        "enforce_eager": on_cpu if settings.enforce_eager is None else settings.enforce_eager,
        "enable_log_requests": False,
        "scheduling_policy": "priority",
        "max_logprobs": MAX_LOGPROBS,
        # One compiler for all engines: what one refuses, the others refuse.
        "structured_outputs_config": {"backend": "xgrammar"},
        "logprobs_mode": "raw_logprobs",
        # Pictures come as tensors every time; their features are what vLLM keeps.
        "mm_processor_cache_gb": 0,
        "mm_device_do_normalize": False,
    }
    for name in (
        "gpu_memory_utilization",
        "kv_cache_memory_bytes",
        "enable_prefix_caching",
        "block_size",
        "max_num_batched_tokens",
        "tensor_parallel_size",
        "pipeline_parallel_size",
        "quantization",
        "load_format",
        "cpu_offload_gb",
        "hf_overrides",
        "attention_backend",
    ):
        value = getattr(settings, name)
        if value is not None:
            arguments[name] = value
    if settings.rope_scaling is not None:
        scaled = rope_overrides(spec.model_path or "", settings.rope_scaling, spec.max_model_len)
        nested = nested_overrides(spec.model_path or "", scaled)
        arguments["hf_overrides"] = {**nested, **(settings.hf_overrides or {})}
    if spec.max_loras:
        places = adapter_places(spec, settings)
        # On CPU vLLM 0.32 looks up a base-model row of a mixed batch at slot -1, the last one, and
        # adds whatever adapter is there. One slot more than there are adapters stays zero.
        slots, resident = (places + 1, places + 1) if on_cpu else (spec.max_loras, places)
        arguments |= {
            "enable_lora": True,
            "max_loras": slots,
            "max_cpu_loras": resident,
            "max_lora_rank": _served_rank(spec.max_lora_rank),
        }
    return arguments


def prepare_environment(spec: EngineSpec, settings: VllmSettings) -> None:
    """vLLM reads these when it is imported. Raises SpecError."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(settings.cpu_kv_cache_gib)
    if spec.device.startswith("cuda:"):
        os.environ["CUDA_VISIBLE_DEVICES"] = spec.device.removeprefix("cuda:")
    if spec.device == "cpu":
        # Else the first request that asks for logprobs compiles for half a minute.
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")


def check_device(spec: EngineSpec, *, on_cpu: bool) -> None:
    """A vLLM build serves one kind of device. Raises SpecError."""
    built_for = "cpu" if on_cpu else "cuda"
    if spec.device != "auto" and not spec.device.startswith(built_for):
        raise SpecError(
            f"device {spec.device!r}: this vLLM environment is built for {built_for}; "
            f"`tuneyard env create vllm` makes one for the other"
        )


def _served_rank(rank: int) -> int:
    served = vllm_rank(rank)
    if served is None:
        raise SpecError(f"max_lora_rank must be at most {VLLM_RANKS[-1]} with vLLM")
    return served
