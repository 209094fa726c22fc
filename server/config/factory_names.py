"""LLaMA-Factory's names for settings of a model: which engine honours which, and how.

One table. A name stands for a field of the model entry, or for one of an engine's own settings;
where an engine does already, and only, what one value asks for, that value is taken and nothing
follows from it; everything else is refused by name, with what to do instead. `tuneyard check
--names` shows the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

ENGINES = ("hf", "vllm", "sglang", "attached", "scripted")


@dataclass(frozen=True, slots=True)
class Field:
    """Another name of a field of the entry."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Own:
    """Another name of one of the engine's own settings. `choices` limits what it may be; `values`
    says what a value is called there."""

    name: str
    choices: tuple[object, ...] | None = None
    values: Mapping[object, object] | None = None

    def __str__(self) -> str:
        return f"settings.{self.name}"


@dataclass(frozen=True, slots=True)
class Merged:
    """Holds settings of the engine by name (or JSON of them)."""

    def __str__(self) -> str:
        return "settings"


@dataclass(frozen=True, slots=True)
class Only:
    """These values ask for what the engine does anyway; others are refused."""

    values: tuple[object, ...]
    why: str

    def __str__(self) -> str:
        return "only " + ", ".join(str(value).lower() for value in self.values)


@dataclass(frozen=True, slots=True)
class Refused:
    why: str

    def __str__(self) -> str:
        return "refused"


Treatment = Field | Own | Merged | Only | Refused


def _everywhere(treatment: Treatment) -> dict[str, Treatment]:
    return dict.fromkeys(ENGINES, treatment)


def _some(otherwise: str, **engines: Treatment) -> dict[str, Treatment]:
    return {**_everywhere(Refused(otherwise)), **engines}


_RUNNING_ELSEWHERE = "that server was started with its own; set it there"
_MEDIA = "the limits of media are the hf engine's"
_MEDIA_LIMITS = (
    "image_max_pixels",
    "image_min_pixels",
    "video_max_pixels",
    "video_min_pixels",
    "video_fps",
    "video_maxlen",
    "audio_sampling_rate",
)
_BITS = (4, 8)
_ROPES = ("linear", "dynamic", "yarn", "llama3")
_ATTENTION = ("auto", "disabled", "sdpa", "fa2")
_NO_QUANTIZATION = (
    "quantizing at start is for engine hf; give the path of a quantized model, or the engine's own "
    "settings.quantization"
)
_NO_VOCABULARY_CHANGE = (
    "the vocabulary served is the one in the model's directory; save the resized model and "
    "tokenizer there"
)
_ONE_DEVICE = (
    "the hf engine keeps a model whole on one device; use a smaller dtype or quantization_bit, or "
    "vllm with settings.cpu_offload_gb or settings.tensor_parallel_size"
)
_ADAPTERS = (
    "only the hf engine merges adapters when it starts; merge them into a directory first, or "
    "train them here and ask for them by their model id"
)

NAMES: dict[str, dict[str, Treatment]] = {
    "infer_backend": _everywhere(Field("engine")),
    "infer_dtype": _everywhere(Field("dtype")),
    "model_name_or_path": _everywhere(Field("path")),
    "model_revision": _everywhere(Field("revision")),
    "hf_hub_token": _everywhere(Field("hub_token")),
    "ms_hub_token": _everywhere(Field("hub_token")),
    "om_hub_token": _everywhere(Field("hub_token")),
    "vllm_maxlen": _everywhere(Field("max_model_len")),
    "vllm_max_lora_rank": _everywhere(Field("max_lora_rank")),
    "MAX_CONCURRENT": _everywhere(Field("max_concurrent")),
    "vllm_gpu_util": _some(
        "memory for keys and values is settings.kv_cache_bytes with hf",
        vllm=Own("gpu_memory_utilization"),
        sglang=Own("mem_fraction_static"),
    ),
    "vllm_enforce_eager": _some(
        "it records no CUDA graphs", vllm=Own("enforce_eager"), sglang=Own("disable_cuda_graph")
    ),
    "vllm_config": _some("it is for vllm", vllm=Merged()),
    "sglang_maxlen": _some("use max_model_len", sglang=Field("max_model_len")),
    "sglang_mem_fraction": _some("it is for sglang", sglang=Own("mem_fraction_static")),
    "sglang_tp_size": _some("it is for sglang", sglang=Own("tp_size")),
    "sglang_lora_backend": _some(
        "it is for sglang", sglang=Own("lora_backend", ("triton", "flashinfer"))
    ),
    "sglang_config": _some("it is for sglang", sglang=Merged()),
    "rope_scaling": _some(
        _RUNNING_ELSEWHERE,
        hf=Own("rope_scaling", _ROPES),
        vllm=Own("rope_scaling", _ROPES),
        sglang=Own("rope_scaling", _ROPES),
    ),
    "flash_attn": _some(
        _RUNNING_ELSEWHERE,
        hf=Own("flash_attn", _ATTENTION),
        vllm=Own("attention_backend", ("auto", "fa2"), {"auto": None, "fa2": "FLASH_ATTN"}),
        sglang=Only(("auto",), "name one in settings.attention_backend"),
    ),
    "quantization_bit": _some(_NO_QUANTIZATION, hf=Own("quantization_bit", _BITS)),
    "quantization_method": _some(
        _NO_QUANTIZATION, hf=Own("quantization_method", ("bnb", "hqq", "eetq"))
    ),
    "quantization_type": _some(_NO_QUANTIZATION, hf=Own("quantization_type", ("nf4", "fp4"))),
    "double_quantization": _some(_NO_QUANTIZATION, hf=Own("double_quantization", (True, False))),
    "quantization_device_map": _some(_NO_QUANTIZATION, hf=Refused(_ONE_DEVICE)),
    **{name: _some(_MEDIA, hf=Own(name)) for name in _MEDIA_LIMITS},
    "adapter_name_or_path": _some(_ADAPTERS, hf=Own("merged_adapters")),
    "offload_folder": _everywhere(Refused(_ONE_DEVICE)),
    "device_map": _everywhere(Only(("auto",), f"use device; {_ONE_DEVICE}")),
    "low_cpu_mem_usage": _everywhere(Only((True,), "weights are always read one by one")),
    "use_cache": _everywhere(Only((True,), "keys and values are always kept while generating")),
    "use_kv_cache": _everywhere(Only((True,), "keys and values are always kept while generating")),
    "use_fast_tokenizer": _everywhere(Only((True,), "only fast tokenizers are used")),
    "split_special_tokens": _everywhere(
        Only((True,), "what users write is never read as control tokens")
    ),
    "resize_vocab": _everywhere(Only((False,), _NO_VOCABULARY_CHANGE)),
    "new_special_tokens": _everywhere(Refused(_NO_VOCABULARY_CHANGE)),
    "add_tokens": _everywhere(Refused(_NO_VOCABULARY_CHANGE)),
    "add_special_tokens": _everywhere(Refused(_NO_VOCABULARY_CHANGE)),
}

TOKEN_HUBS = {
    "hf_hub_token": "huggingface",
    "ms_hub_token": "modelscope",
    "om_hub_token": "modelers",
}
"""A token is for one hub."""
