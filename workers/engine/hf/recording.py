"""What each attention layer of a stock model is called with, seen in one pass over a prompt.

Which tokens a layer sees is read off the mask that transformers makes for it, not off names in a
config. Windows and chunks are narrow meanwhile (`workers.models.narrowing`), so that one of them
shows in a short prompt. What cannot be read is not served in batches.

Shape letters as in `attention`; P tokens of the prompt.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.masking_utils import sdpa_mask

from workers.engine.hf.attention import (
    IMPLEMENTATION,
    LayerCall,
    Sight,
    SlotAttention,
    attention_function,
)
from workers.engine.hf.kv import LayerShape
from workers.engine.hf.media.families import FAMILIES

RECORDING = "tuneyard_recording"
_CHANGING = frozenset({"position_bias", "indices", "head_mask"})
"""What some layers add to attention that ours does not."""


class NotBatchedError(Exception):
    """Why our batched attention cannot stand in for the model's own; in words, for an operator."""


def record_call(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """What transformers' `AttentionInterface` calls. Raises NotBatchedError."""
    attention: SlotAttention = module.__dict__["slot_attention"]
    layer: int = module.__dict__["layer_idx"]
    strange = sorted(name for name in _CHANGING & others.keys() if others[name] is not None)
    if strange:
        raise NotBatchedError(f"its attention takes {', '.join(strange)}")
    if layer in attention.calls:
        raise NotBatchedError("two of its attention layers have the same number")
    if query.shape[1] % key.shape[1]:
        raise NotBatchedError("its heads of queries do not divide among those of keys")
    _check_width(sliding_window, query.shape[2])
    given = Sight(sliding_window, None)
    sight = given if attention_mask is None else read_mask(attention_mask)
    attention.seen[layer] = LayerShape(key.shape[1], key.shape[3], value.shape[3])
    attention.calls[layer] = LayerCall(scaling, sight, softcap, s_aux)
    return attention.attend(layer, query, key, value), None


def read_mask(mask: Tensor) -> Sight:
    """Of a whole prompt [1, 1 or H, P, P]. Raises NotBatchedError."""
    if mask.dtype != torch.bool:
        if not bool(((mask == 0) | (mask <= torch.finfo(mask.dtype).min)).all()):
            raise NotBatchedError("its mask weighs tokens")
        mask = mask == 0
    size = mask.shape[2]
    seen_PP = mask[0, 0]
    if mask.shape[3] != size or not bool((mask[0] == seen_PP).all()):
        raise NotBatchedError("its heads have masks of their own")
    rows = torch.arange(size, device=mask.device)[:, None]
    first = int(seen_PP[-1].int().argmax())
    for sight in (Sight(), Sight(window=size - first), *(Sight(chunk=n) for n in range(2, size))):
        if torch.equal(sight.mask(rows, rows.T), seen_PP):
            return sight
    raise NotBatchedError("its mask is neither causal nor a window nor chunks")


def check_cache(config: Any) -> None:
    """Raises NotBatchedError where transformers' cache for the model holds anything but keys and
    values: states, indices or compressed tokens matter only in prompts longer than a probe."""
    cache = DynamicCache(config=config.get_text_config(decoder=True))
    kinds = {type(layer) for layer in cache.layers} - {DynamicLayer, DynamicSlidingWindowLayer}
    if kinds:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise NotBatchedError(f"its cache holds more than keys and values ({names})")


@contextmanager
def recording(model: Any, attention: SlotAttention) -> Generator[None]:
    """A pass over the model within is recorded. `attention` is attached already."""
    implement(model, RECORDING)
    yield
    if not attention.seen:
        raise NotBatchedError("its attention does not go through transformers' interface")
    if sorted(attention.seen) != list(range(len(attention.seen))):
        raise NotBatchedError("some of its layers are not attention")
    implement(model, IMPLEMENTATION)


def implement(model: Any, name: str | None) -> None:
    """The decoder's attention; what looks at pictures or listens keeps its own."""
    parts = getattr(model.config, "sub_configs", {})
    if model.config.model_type not in FAMILIES or "text_config" not in parts:
        model.set_attn_implementation(name)
    else:
        model.set_attn_implementation({"text_config": name})


def widen(attention: SlotAttention, wide: Mapping[int, int]) -> None:
    """Gives the recorded calls the model's own widths."""
    for layer, call in attention.calls.items():
        sight = Sight(*(wide.get(width, width) if width else None for width in call.sight))
        attention.calls[layer] = LayerCall(call.scale, sight, call.softcap, call.sinks)


AttentionInterface.register(IMPLEMENTATION, attention_function)
AttentionInterface.register(RECORDING, record_call)


def _check_width(width: int | None, num_tokens: int) -> None:
    """Raises NotBatchedError where the prompt does not cross a window or a chunk."""
    if width is not None and width >= num_tokens:
        raise NotBatchedError(f"what its window of {width} tokens hides does not show at start")


def _whole_mask(
    *arguments: Any, q_length: int, local_size: int | None = None, **options: Any
) -> Tensor | None:
    """Never left out for being plainly causal."""
    _check_width(local_size, q_length)
    options["allow_is_causal_skip"] = False
    return sdpa_mask(*arguments, q_length=q_length, local_size=local_size, **options)


AttentionMaskInterface.register(RECORDING, _whole_mask)
