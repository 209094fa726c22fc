"""Loading a stock transformers model and putting our attention and adapters under it."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMultimodalLM

from workers.engine.hf.attention import SlotAttention
from workers.engine.hf.context import context_length
from workers.engine.hf.dense import DenseDecoder, dense_decoder, probe_decoder
from workers.engine.hf.kv import SlotCache
from workers.engine.hf.loaded import LoadedModel, can_select_logits
from workers.engine.hf.lora.ends import wrap_ends
from workers.engine.hf.lora.parts import AdaptedLayer
from workers.engine.hf.lora.plan import AdapterStep
from workers.engine.hf.lora.quantized import quantized_linears
from workers.engine.hf.lora.tokens import layers_apart
from workers.engine.hf.lora.wrapping import wrap_linears, wrap_quantized
from workers.engine.hf.media.check import MediaProbe
from workers.engine.hf.media.families import FAMILIES
from workers.engine.hf.media.host import HfMedia, open_media
from workers.engine.hf.preparing import fix_rope, merge_adapters, scale_rope
from workers.engine.hf.proof import prove_batching
from workers.engine.hf.quantization import quantization_options
from workers.engine.hf.recording import NotBatchedError
from workers.engine.hf.settings import HfSettings
from workers.engine.hf.slabs import LayerShape, token_bytes
from workers.engine.spec import EngineSpec, SpecError
from workers.models.comparison import TOLERANCE, difference, probe_ids

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_PROBE_TOKENS = 12

_SMALL_MODEL = 10_000_000
"""Models of fewer weights are computed on one thread, unless told otherwise."""


def load_model(spec: EngineSpec, settings: HfSettings, tokenizer: Any | None = None) -> LoadedModel:
    """Reads media, if the model does and a tokenizer is given. Raises SpecError."""
    device = choose_device(spec.device)
    assert spec.model_path is not None
    model = _read(spec.model_path, spec, settings, device)
    _set_threads(model, settings)
    max_model_len = context_length(model.config, spec)
    media = None if tokenizer is None else open_media(model, tokenizer, spec, settings)
    try:
        return _batched(model, spec, settings, max_model_len, media)
    except NotBatchedError as error:
        reason = str(error)
    log.warning("compatibility mode: one sequence at a time", extra={"reason": reason})
    step = AdapterStep()
    layers = _adapt(model, spec, step)
    return LoadedModel(
        model,
        SlotAttention(),
        step,
        layers,
        device,
        model.dtype,
        max_model_len,
        compatibility=reason,
    )


def _batched(
    model: Any, spec: EngineSpec, settings: HfSettings, max_model_len: int, media: HfMedia | None
) -> LoadedModel:
    """Raises NotBatchedError with the model as it was, and SpecError."""
    probe = None if media is None else MediaProbe(model, media)
    stock_media = probe.stock() if probe is not None and settings.verify else None
    attention = prove_batching(model, max_model_len, media, verify=settings.verify)
    step = AdapterStep()
    layers = _adapt(model, spec, step)
    if probe is not None and stock_media is not None:
        _compare(stock_media, probe.ours(attention), model.dtype)
    served = layers if spec.max_loras else {}
    apart = layers_apart(served, partial(_probe, model), _PROBE_TOKENS)
    behind = _behind_selection(model, served) - apart
    return LoadedModel(
        model,
        attention,
        step,
        layers,
        model.device,
        model.dtype,
        max_model_len,
        media,
        _fast_decoder(model, attention, max_model_len),
        unserved=apart if media is None else apart | behind,
        wants_all_logits=media is None and bool(behind),
    )


def _behind_selection(model: Any, layers: dict[str, AdaptedLayer]) -> frozenset[str]:
    """Layers that see only tokens whose logits are wanted."""
    if not layers or not can_select_logits(model):
        return frozenset()
    last = torch.tensor([_PROBE_TOKENS - 1], device=model.device)
    return layers_apart(layers, partial(_probe, model, logits_to_keep=last), _PROBE_TOKENS)


def _adapt(model: Any, spec: EngineSpec, step: AdapterStep) -> dict[str, AdaptedLayer]:
    """Puts layers with places for adapters into the model. Raises SpecError."""
    width = spec.max_loras * spec.max_lora_rank
    decoder = model.get_decoder() if model.config.model_type in FAMILIES else model
    before = _probe(model)
    plain = wrap_linears(model, width, step, partial(_probe, model), within=decoder)
    layers: dict[str, AdaptedLayer] = {**plain}
    if width and (kinds := quantized_linears(model)):
        layers |= wrap_quantized(model, kinds, width, step, model.dtype, within=decoder)
    if width:
        layers |= wrap_ends(model, step)
    _compare(before, _probe(model), model.dtype)
    return layers


def _set_threads(model: Any, settings: HfSettings) -> None:
    """Products of a small model are too small to share: threads then wait for each other, and for
    the processors that the gateway is on."""
    if settings.num_threads is not None:
        torch.set_num_threads(settings.num_threads)
    elif model.num_parameters() < _SMALL_MODEL:
        torch.set_num_threads(1)


def _fast_decoder(model: Any, attention: SlotAttention, max_model_len: int) -> DenseDecoder | None:
    """None, and a line in the log, if it is not for this model."""
    decoder, reason = dense_decoder(model, attention, max_model_len)
    if decoder is not None:
        found = probe_decoder(decoder, attention, _probe_row(model)[0], model.dtype)
        apart = difference(_probe(model), found)
        if apart <= TOLERANCE[model.dtype]:
            return decoder
        reason = f"its logits differ by {apart:.3g} of their spread"
    log.info("no fast forward pass", extra={"reason": reason})
    return None


def make_cache(loaded: LoadedModel, spec: EngineSpec, settings: HfSettings) -> SlotCache:
    """Raises SpecError if not even one sequence of full length would fit."""
    layers = [loaded.attention.seen[index] for index in sorted(loaded.attention.seen)]
    rows = spec.max_num_seqs + settings.prefix_rows
    budget = settings.kv_cache_bytes or _memory_budget(loaded, layers, rows)
    needed = token_bytes(layers, loaded.dtype) * loaded.max_model_len
    if needed > budget:
        raise SpecError(
            f"one sequence of max_model_len {loaded.max_model_len} needs {needed} bytes of keys "
            f"and values, and there are {budget}: lower max_model_len or raise kv_cache_bytes"
        )
    return SlotCache(
        layers,
        dtype=loaded.dtype,
        device=loaded.device,
        budget_bytes=budget,
        max_length=loaded.max_model_len,
    )


def choose_device(name: str) -> torch.device:
    """Raises SpecError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SpecError(f"device {name!r} is not known") from error
    if device.type not in ("cpu", "cuda"):
        raise SpecError(f"device {name!r}: only cpu and cuda are supported")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SpecError(f"device {name!r} is not there")
    return device


def _read(path: str, spec: EngineSpec, settings: HfSettings, device: torch.device) -> Any:
    if settings.flash_attn not in ("auto", "sdpa"):
        raise SpecError(
            f"flash_attn {settings.flash_attn!r}: the hf engine generates with its own attention "
            "over sdpa; use auto, or vllm"
        )
    dtype = DTYPES.get(spec.dtype)
    if dtype is None and spec.dtype != "auto":
        raise SpecError(f"dtype {spec.dtype!r} is not one of auto, {', '.join(DTYPES)}")
    if not (Path(path) / "config.json").is_file():
        raise SpecError(f"{path} holds no model")
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=spec.trust_remote_code)
        scale_rope(config, path, spec, settings)
        fix_rope(config, spec)
        quantization = quantization_options(spec, settings, device, dtype)
        takes_media = config.model_type in FAMILIES
        kind = AutoModelForMultimodalLM if takes_media else AutoModelForCausalLM
        model: Any = kind.from_pretrained(
            path,
            config=config,
            dtype=dtype if dtype is not None else "auto",
            trust_remote_code=spec.trust_remote_code,
            use_safetensors=True,
            **quantization,
        )
        model = merge_adapters(model, settings)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise SpecError(f"the model cannot be loaded: {error}") from error
    if not quantization:
        model = model.to(device)
    return model.eval().requires_grad_(False)


@torch.inference_mode()
def _probe(model: Any, **options: Any) -> Tensor:
    return model(input_ids=_probe_row(model), use_cache=False, **options).logits[0].float()


def _probe_row(model: Any) -> Tensor:
    ids = probe_ids(_PROBE_TOKENS, model.config.get_text_config().vocab_size)
    return torch.tensor([ids], device=model.device)


def _compare(expected: Tensor, found: Tensor, dtype: torch.dtype) -> None:
    apart = difference(expected, found)
    if not apart <= TOLERANCE[dtype]:
        raise SpecError(
            "this model cannot be served by the HF engine with adapters or media: its logits "
            f"differ by {apart:.3g} of their spread"
        )


def _memory_budget(loaded: LoadedModel, layers: list[LayerShape], rows: int) -> int:
    wanted = token_bytes(layers, loaded.dtype) * loaded.max_model_len * rows
    if loaded.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(loaded.device)
        return min(wanted, int(free * 0.8))
    return min(wanted, psutil.virtual_memory().available // 4)
