"""Weights in 8 or 4 bits, quantized while the model is read.

bitsandbytes runs on CPU and CUDA, with adapters beside its layers; transformers lets HQQ and EETQ
run on CUDA alone, and their layers take none.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from transformers import BitsAndBytesConfig, EetqConfig, HqqConfig

from workers.engine.hf.settings import HfSettings
from workers.engine.spec import EngineSpec, SpecError

_PACKAGES = {"bnb": "bitsandbytes", "hqq": "hqq", "eetq": "eetq"}
_CUDA_ONLY = frozenset({"hqq", "eetq"})


def quantization_options(
    spec: EngineSpec, settings: HfSettings, device: torch.device, dtype: torch.dtype | None
) -> dict[str, Any]:
    """Arguments of `from_pretrained`; none without quantization. Raises SpecError."""
    bits, method = settings.quantization_bit, settings.quantization_method
    if bits is None:
        return {}
    if spec.max_loras and method != "bnb":
        raise SpecError(
            f"quantization_method {method!r}: the hf engine serves adapters beside bnb's layers "
            "only; use bnb, or set max_loras: 0"
        )
    if method in _CUDA_ONLY and device.type != "cuda":
        raise SpecError(
            f"quantization_method {method!r} needs a CUDA device, and the model runs on "
            f"{device.type}; use bnb"
        )
    if method == "eetq" and bits != 8:
        raise SpecError("quantization_method 'eetq' has 8 bits only: set quantization_bit: 8")
    if importlib.util.find_spec(_PACKAGES[method]) is None:
        package = _PACKAGES[method]
        raise SpecError(
            f"quantization_method {method!r} needs the package {package} in the engine's "
            f"environment: install it there (`pip install {package}`)"
        )
    return {
        "quantization_config": _config(settings, bits, dtype),
        "device_map": {"": device},
    }


def _config(settings: HfSettings, bits: int, dtype: torch.dtype | None) -> Any:
    if settings.quantization_method == "hqq":
        return HqqConfig(nbits=bits)
    if settings.quantization_method == "eetq":
        return EetqConfig()
    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_type=settings.quantization_type,
        bnb_4bit_use_double_quant=settings.double_quantization,
    )
