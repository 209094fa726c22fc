"""Attention over slots, as transformers' stock models call it.

A step runs one packed row of tokens [1, T]: first one token of each decoding row in the order of
their slots, then prefill chunks. The function registered with transformers finds the step through
the attention module, writes the new keys and values to their slots and attends.

Shape letters: T tokens of the step, B decoding rows, H query heads, K key/value heads, G = H / K,
L length in tokens, D head size, N tokens of a chunk.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workers.engine.hf.kv import LayerShape, SlotCache

IMPLEMENTATION = "tuneyard_slots"
_RUN_OVERHEAD_TOKENS = 2048
"""Reading this many padded tokens costs about what one more attention call costs."""


@dataclass(slots=True)
class DecodeRun:
    """Decoding rows in neighbouring slots, attended to in one call of `length` tokens."""

    first_slot: int
    first_token: int
    num_rows: int
    length: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Prompt tokens `start` to `start + size` of the sequence in `slot`."""

    slot: int
    start: int
    size: int
    first_token: int
    blocks: tuple[tuple[int, int], ...] = ()
    """Spans of the sequence whose tokens also see those behind them in the span. None is split
    between chunks."""


@dataclass(slots=True)
class StepLayout:
    """Which token of the packed row belongs where. Masks are made once a step and window."""

    decode_slots: Tensor
    decode_positions: Tensor
    runs: list[DecodeRun]
    chunks: list[Chunk]
    _masks: dict[Any, Tensor | None] = field(default_factory=dict[Any, "Tensor | None"])

    def decode_mask(self, run: DecodeRun, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """Additive [B, 1, 1, L]; None if every row sees the whole length."""
        key = (run.first_token, window)
        if key not in self._masks:
            positions = self.decode_positions[run.first_token : run.first_token + run.num_rows]
            columns = torch.arange(run.length, device=positions.device)
            hidden = columns[None, :] > positions[:, None]
            if window is not None:
                hidden |= columns[None, :] <= positions[:, None] - window
            mask = None
            if bool(hidden.any()):
                mask = torch.zeros(hidden.shape, dtype=dtype, device=positions.device)
                mask = mask.masked_fill_(hidden, float("-inf"))[:, None, None, :]
            self._masks[key] = mask
        return self._masks[key]

    def chunk_mask(self, chunk: Chunk, window: int | None, device: torch.device) -> Tensor | None:
        """Boolean [N, L]; None if plain causal attention from position 0 is right."""
        end = chunk.start + chunk.size
        blocks = [block for block in chunk.blocks if chunk.start < block[1] and block[0] < end]
        if chunk.start == 0 and not blocks and (window is None or end <= window):
            return None
        key = (chunk.slot, chunk.start, window)
        if key not in self._masks:
            rows = torch.arange(chunk.start, end, device=device)[:, None]
            columns = torch.arange(end, device=device)[None, :]
            seen = columns <= rows
            for first, last in blocks:
                seen |= (first <= rows) & (rows < last) & (first <= columns) & (columns < last)
            if window is not None:
                seen &= columns > rows - window
            self._masks[key] = seen
        return self._masks[key]


def plan_runs(slots: list[int], lengths: list[int]) -> list[DecodeRun]:
    """Cuts decoding rows into runs of neighbouring slots, a new run where padding short rows to
    the longest would cost more than another call."""
    runs: list[DecodeRun] = []
    wasted = 0
    for index, (slot, length) in enumerate(zip(slots, lengths, strict=True)):
        run = runs[-1] if runs else None
        if run is not None and run.first_slot + run.num_rows == slot:
            longest = max(run.length, length)
            more = (longest - run.length) * run.num_rows + longest - length
            if wasted + more <= _RUN_OVERHEAD_TOKENS:
                wasted += more
                run.num_rows += 1
                run.length = longest
                continue
        runs.append(DecodeRun(slot, index, 1, length))
        wasted = 0
    return runs


@dataclass(frozen=True, slots=True)
class LayerCall:
    """What a stock attention layer gives beside its tensors, the same in every step."""

    scale: float | None
    window: int | None
    softcap: float | None


class SlotAttention:
    """What the attention modules of one model share: the cache, and the layout of this step."""

    def __init__(self) -> None:
        self.cache: SlotCache | None = None
        self.layout: StepLayout | None = None
        self.probe_blocks: tuple[tuple[int, int], ...] = ()
        """Of the prompt that is passed through while there is no cache yet."""
        self.seen: dict[int, LayerShape] = {}
        """Shapes of the layers met while there is no cache yet: one pass over a prompt finds out
        what the cache must hold."""
        self.calls: dict[int, LayerCall] = {}

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float | None,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        """Query [1, H, T, D] and new keys and values [1, K, T, D] to [1, T, H, D]."""
        if self.cache is not None and self.layout is not None:
            query_THD, key_TKD, value_TKD = (t[0].transpose(0, 1) for t in (query, key, value))
            packed = (layer, query_THD, key_TKD, value_TKD)
            return self.attend_packed(*packed, scale, window, softcap)[None]
        self.seen[layer] = LayerShape(key.shape[1], key.shape[3], value.shape[3])
        self.calls[layer] = LayerCall(scale, window, softcap)
        keys, values = _repeat(key, query.shape[1]), _repeat(value, query.shape[1])
        mask = None
        if self.probe_blocks or (window is not None and window < query.shape[2]):
            whole = Chunk(0, 0, query.shape[2], 0, self.probe_blocks)
            empty = torch.empty(0)
            mask = StepLayout(empty, empty, [], []).chunk_mask(whole, window, query.device)
        return _attend(query, keys, values, mask, mask is None, scale, softcap).transpose(1, 2)

    def attend_packed(
        self,
        layer: int,
        query_THD: Tensor,
        key_TKD: Tensor,
        value_TKD: Tensor,
        scale: float | None,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        """[T, H, D]; there must be a cache and a layout."""
        cache, layout = self.cache, self.layout
        assert cache is not None
        assert layout is not None
        keys_RKLD, values_RKLD = cache.keys[layer], cache.values[layer]
        outputs: list[Tensor] = []
        num_decode = layout.decode_slots.shape[0]
        if num_decode:
            where = (layout.decode_slots, slice(None), layout.decode_positions)
            keys_RKLD[where] = key_TKD[:num_decode]
            values_RKLD[where] = value_TKD[:num_decode]
            for run in layout.runs:
                mask = layout.decode_mask(run, window, query_THD.dtype)
                outputs.append(
                    _decode(query_THD, keys_RKLD, values_RKLD, run, mask, scale, softcap)
                )
        num_heads = query_THD.shape[1]
        for chunk in layout.chunks:
            tokens = slice(chunk.first_token, chunk.first_token + chunk.size)
            end = chunk.start + chunk.size
            keys_RKLD[chunk.slot, :, chunk.start : end] = key_TKD[tokens].transpose(0, 1)
            values_RKLD[chunk.slot, :, chunk.start : end] = value_TKD[tokens].transpose(0, 1)
            keys = _repeat(keys_RKLD[chunk.slot : chunk.slot + 1, :, :end], num_heads)
            values = _repeat(values_RKLD[chunk.slot : chunk.slot + 1, :, :end], num_heads)
            mask = layout.chunk_mask(chunk, window, query_THD.device)
            query = query_THD[tokens].transpose(0, 1)[None]
            out = _attend(query, keys, values, mask, mask is None, scale, softcap)
            outputs.append(out[0].transpose(0, 1))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _decode(
    query_THD: Tensor,
    keys_RKLD: Tensor,
    values_RKLD: Tensor,
    run: DecodeRun,
    mask: Tensor | None,
    scale: float | None,
    softcap: float | None,
) -> Tensor:
    """One token of each row of a run: [B, H, D]. Query heads that share a key/value head stand in
    for query positions, so keys and values are read as they lie."""
    rows = slice(run.first_slot, run.first_slot + run.num_rows)
    tokens = slice(run.first_token, run.first_token + run.num_rows)
    num_heads, num_kv_heads = query_THD.shape[1], keys_RKLD.shape[1]
    num_groups, size = num_heads // num_kv_heads, query_THD.shape[2]
    query_BKGD = query_THD[tokens].reshape(run.num_rows, num_kv_heads, num_groups, size)
    keys, values = keys_RKLD[rows, :, : run.length], values_RKLD[rows, :, : run.length]
    out = _attend(query_BKGD, keys, values, mask, False, scale, softcap)
    return out.reshape(run.num_rows, num_heads, values.shape[3])


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    is_causal: bool,
    scale: float | None,
    softcap: float | None,
) -> Tensor:
    is_causal = is_causal and query.shape[2] > 1
    if softcap is None:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=is_causal, scale=scale
        )
    scores = query @ key.transpose(2, 3) * (scale or query.shape[3] ** -0.5)
    scores = torch.tanh(scores / softcap) * softcap
    if is_causal:
        size = query.shape[2]
        mask = torch.ones(size, size, dtype=torch.bool, device=query.device).tril_()
    if mask is not None:
        scores = (
            scores.masked_fill(~mask, float("-inf"))
            if mask.dtype == torch.bool
            else (scores + mask)
        )
    return torch.softmax(scores, -1, dtype=torch.float32).to(value.dtype) @ value


def _repeat(t: Tensor, num_heads: int) -> Tensor:
    groups = num_heads // t.shape[1]
    return t if groups == 1 else t.repeat_interleave(groups, 1)


def attention_function(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """What transformers' `AttentionInterface` calls. No mask reaches it: for an implementation
    without a mask function transformers makes none."""
    attention: SlotAttention = module.__dict__["slot_attention"]
    layer: int = module.__dict__["layer_idx"]
    return attention.attend(layer, query, key, value, scaling, sliding_window, softcap), None


def attach(model: nn.Module) -> SlotAttention:
    """Gives every attention module of `model` its way to the slots."""
    attention = SlotAttention()
    for module in model.modules():
        if hasattr(module, "layer_idx"):
            module.__dict__["slot_attention"] = attention
    return attention
