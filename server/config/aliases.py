"""Names that LLaMA-Factory gives to settings of a model, accepted in a model entry.

Each stands for one of ours, or for a setting of one engine; given for an engine that does not have
it, or beside the name it stands for, it is an error.
"""

from __future__ import annotations

from typing import Any

_OURS = {
    "infer_backend": "engine",
    "infer_dtype": "dtype",
    "vllm_maxlen": "max_model_len",
    "vllm_max_lora_rank": "max_lora_rank",
}
_SETTINGS = {
    "vllm_gpu_util": {"vllm": "gpu_memory_utilization", "sglang": "mem_fraction_static"},
    "vllm_enforce_eager": {"vllm": "enforce_eager", "sglang": "disable_cuda_graph"},
}
_ENGINES = {"huggingface": "hf"}


def plain_entry(entry: dict[str, Any]) -> dict[str, Any]:
    """The entry under our own names. Raises ValueError."""
    plain = {name: value for name, value in entry.items() if name not in _OURS | _SETTINGS}
    for alias, name in _OURS.items():
        if alias in entry:
            if name in plain:
                raise ValueError(f"{alias} and {name} are the same setting")
            plain[name] = entry[alias]
    plain_engine = plain.get("engine", "hf")
    if "infer_backend" in entry:
        plain_engine = plain["engine"] = _ENGINES.get(str(plain_engine), plain_engine)
    settings = dict(plain.get("settings") or {})
    for alias, names in _SETTINGS.items():
        if alias not in entry:
            continue
        name = names.get(str(plain_engine))
        if name is None:
            raise ValueError(f"{alias} is not a setting of engine {plain_engine}")
        if name in settings:
            raise ValueError(f"{alias} and settings.{name} are the same setting")
        settings[name] = entry[alias]
    return plain | {"settings": settings} if settings else plain
