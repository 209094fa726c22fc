"""Attention over slots, as transformers' stock models call it.

A step runs one packed row of tokens [1, T]: first one token of each decoding row in the order of
their slots, then prefill chunks. The function registered with transformers finds the step through
the attention module, writes the new keys and values to their slots and attends.

Shape letters: T tokens of the step, B decoding rows, H query heads, K key/value heads, G = H / K,
L length in tokens, D head size, N tokens of a chunk.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workers.engine.hf.kv import CALL_TOKENS
from workers.engine.hf.slabs import LayerShape, Row, Slab

IMPLEMENTATION = "tuneyard_slots"


@dataclass(frozen=True, slots=True)
class DecodeRun:
    """Decoding rows in neighbouring slots of a slab, attended to in one call of `length` tokens."""

    slab: Slab
    slots: slice
    tokens: slice
    length: int
    positions_B: Tensor
    places: tuple[Tensor, slice, Tensor]
    """Of the new keys and values in the slab."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Prompt tokens `start` to `start + size` of the sequence in `row`."""

    row: Row
    start: int
    size: int
    first_token: int
    blocks: tuple[tuple[int, int], ...] = ()
    """Spans of the sequence whose tokens also see those behind them in the span. None is split
    between chunks."""


class Sight(NamedTuple):
    """Which of the tokens before it a token sees."""

    window: int | None = None
    """The last so many, itself among them."""
    chunk: int | None = None
    """Those since the last multiple of this."""

    def is_causal(self, length: int) -> bool:
        """In a sequence of this length every token sees all before it."""
        return all(width is None or length <= width for width in self)

    def mask(self, rows: Tensor, columns: Tensor) -> Tensor:
        """True where the token at `rows` sees the one at `columns`."""
        return self.cut(columns <= rows, rows, columns)

    def cut(self, seen: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        if self.window is not None:
            seen &= columns > rows - self.window
        if self.chunk is not None:
            seen &= columns >= rows // self.chunk * self.chunk
        return seen


@dataclass(slots=True)
class StepLayout:
    """Which token of the packed row belongs where. Masks are made once a step and window."""

    runs: list[DecodeRun]
    chunks: list[Chunk]
    _masks: dict[Any, Tensor | None] = field(default_factory=dict[Any, "Tensor | None"])

    def decode_mask(self, run: DecodeRun, sight: Sight, dtype: torch.dtype) -> Tensor | None:
        """Additive [B, 1, 1, L]; None if every row sees the whole length."""
        key = (run.tokens.start, sight)
        if key not in self._masks:
            columns = torch.arange(run.length, device=run.positions_B.device)
            hidden = ~sight.mask(run.positions_B[:, None], columns[None, :])
            mask = None
            if bool(hidden.any()):
                mask = torch.zeros(hidden.shape, dtype=dtype, device=columns.device)
                mask = mask.masked_fill_(hidden, float("-inf"))[:, None, None, :]
            self._masks[key] = mask
        return self._masks[key]

    def chunk_mask(self, chunk: Chunk, sight: Sight, device: torch.device) -> Tensor | None:
        """Boolean [N, L]; None if plain causal attention from position 0 is right."""
        end = chunk.start + chunk.size
        blocks = [block for block in chunk.blocks if chunk.start < block[1] and block[0] < end]
        if chunk.start == 0 and not blocks and sight.is_causal(end):
            return None
        key = (chunk.first_token, chunk.size, sight)
        if key not in self._masks:
            rows = torch.arange(chunk.start, end, device=device)[:, None]
            columns = torch.arange(end, device=device)[None, :]
            seen = columns <= rows
            for first, last in blocks:
                seen |= (first <= rows) & (rows < last) & (first <= columns) & (columns < last)
            self._masks[key] = sight.cut(seen, rows, columns)
        return self._masks[key]


def plan_runs(rows: list[tuple[Row, int]], positions_B: Tensor) -> list[DecodeRun]:
    """Cuts decoding rows, given with their lengths and in the order in which they lie, into runs of
    neighbours: a new run where padding short rows to the longest would cost more than a call."""
    runs: list[DecodeRun] = []
    first = 0
    longest = wasted = 0
    for index, (row, length) in enumerate(rows):
        before = rows[index - 1][0]
        if index > first and row.slab is before.slab and row.slot == before.slot + 1:
            more = max(longest, length)
            padding = (more - longest) * (index - first) + more - length
            if wasted + padding <= CALL_TOKENS:
                longest, wasted = more, wasted + padding
                continue
        if index:
            runs.append(_run(rows[first][0], slice(first, index), longest, positions_B))
        first, longest, wasted = index, length, 0
    if rows:
        runs.append(_run(rows[first][0], slice(first, len(rows)), longest, positions_B))
    return runs


def _run(row: Row, tokens: slice, length: int, positions_B: Tensor) -> DecodeRun:
    assert row.slab is not None, "a row that decodes has been given room"
    num_rows = tokens.stop - tokens.start
    positions = positions_B[tokens]
    slots = torch.arange(row.slot, row.slot + num_rows, device=positions.device)
    places = (slots, slice(None), positions)
    beside = slice(row.slot, row.slot + num_rows)
    return DecodeRun(row.slab, beside, tokens, length, positions, places)


@dataclass(frozen=True, slots=True)
class LayerCall:
    """What a stock attention layer gives beside its tensors, the same in every step."""

    scale: float | None
    sight: Sight
    softcap: float | None
    sinks: Tensor | None
    """Per head, a score beside those of the tokens that takes its share and gives nothing."""


class SlotAttention:
    """What the attention modules of one model share: the layout of this step."""

    def __init__(self) -> None:
        self.layout: StepLayout | None = None
        """None: a prompt is passed through that leaves nothing."""
        self.probe_blocks: tuple[tuple[int, int], ...] = ()
        """Of such a prompt."""
        self.seen: dict[int, LayerShape] = {}
        """Shapes of the layers: one recorded pass over a prompt finds out what a cache must
        hold."""
        self.calls: dict[int, LayerCall] = {}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Query [1, H, T, D] and new keys and values [1, K, T, D] to [1, T, H, D]."""
        if self.layout is not None:
            query_THD, key_TKD, value_TKD = (t[0].transpose(0, 1) for t in (query, key, value))
            return self.attend_packed(layer, query_THD, key_TKD, value_TKD)[None]
        call = self.calls[layer]
        keys, values = _repeat(key, query.shape[1]), _repeat(value, query.shape[1])
        whole = Chunk(Row(), 0, query.shape[2], 0, self.probe_blocks)
        mask = StepLayout([], []).chunk_mask(whole, call.sight, query.device)
        return _attend(query, keys, values, mask, mask is None, call).transpose(1, 2)

    def attend_packed(
        self,
        layer: int,
        query_THD: Tensor,
        key_TKD: Tensor,
        value_TKD: Tensor,
    ) -> Tensor:
        """[T, H, D]; there must be a layout."""
        layout, call = self.layout, self.calls[layer]
        assert layout is not None
        outputs: list[Tensor] = []
        for run in layout.runs:
            keys_RKLD, values_RKLD = run.slab.keys[layer], run.slab.values[layer]
            keys_RKLD[run.places] = key_TKD[run.tokens]
            values_RKLD[run.places] = value_TKD[run.tokens]
            keys = keys_RKLD[run.slots, :, : run.length]
            values = values_RKLD[run.slots, :, : run.length]
            mask = layout.decode_mask(run, call.sight, query_THD.dtype)
            outputs.append(_decode(query_THD[run.tokens], keys, values, mask, call))
        num_heads = query_THD.shape[1]
        for chunk in layout.chunks:
            tokens = slice(chunk.first_token, chunk.first_token + chunk.size)
            end = chunk.start + chunk.size
            slab, slot = chunk.row.slab, chunk.row.slot
            assert slab is not None, "a row with a chunk has been given room"
            keys_1KLD = slab.keys[layer][slot : slot + 1, :, :end]
            values_1KLD = slab.values[layer][slot : slot + 1, :, :end]
            keys_1KLD[0, :, chunk.start :] = key_TKD[tokens].transpose(0, 1)
            values_1KLD[0, :, chunk.start :] = value_TKD[tokens].transpose(0, 1)
            keys, values = _repeat(keys_1KLD, num_heads), _repeat(values_1KLD, num_heads)
            mask = layout.chunk_mask(chunk, call.sight, query_THD.device)
            query = query_THD[tokens].transpose(0, 1)[None]
            out = _attend(query, keys, values, mask, mask is None, call)
            outputs.append(out[0].transpose(0, 1))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _decode(
    query_BHD: Tensor,
    keys_BKLD: Tensor,
    values_BKLD: Tensor,
    mask: Tensor | None,
    call: LayerCall,
) -> Tensor:
    """One token of each row: [B, H, D]. Query heads that share a key/value head stand in for query
    positions, so keys and values are read as they lie."""
    num_rows, num_heads, size = query_BHD.shape
    query_BKGD = query_BHD.reshape(num_rows, keys_BKLD.shape[1], -1, size)
    out = _attend(query_BKGD, keys_BKLD, values_BKLD, mask, False, call)
    return out.reshape(num_rows, num_heads, values_BKLD.shape[3])


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    is_causal: bool,
    call: LayerCall,
) -> Tensor:
    is_causal = is_causal and query.shape[2] > 1
    if call.softcap is None and call.sinks is None:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=is_causal, scale=call.scale
        )
    scores = query @ key.transpose(2, 3) * (call.scale or query.shape[3] ** -0.5)
    if call.softcap is not None:
        scores = torch.tanh(scores / call.softcap) * call.softcap
    if is_causal:
        size = query.shape[2]
        mask = torch.ones(size, size, dtype=torch.bool, device=query.device).tril_()
    if mask is not None:
        scores = (
            scores.masked_fill(~mask, float("-inf"))
            if mask.dtype == torch.bool
            else (scores + mask)
        )
    return _shares(scores, call.sinks).to(value.dtype) @ value


def _shares(scores: Tensor, sinks: Tensor | None) -> Tensor:
    """Softmax in float32. Heads are the second dimension, or the second and third together."""
    if sinks is None:
        return torch.softmax(scores, -1, dtype=torch.float32)
    shape = (1, -1, 1, 1) if scores.shape[1] == sinks.shape[0] else (1, *scores.shape[1:3], 1)
    sink = sinks.reshape(shape).expand(*scores.shape[:3], 1).to(scores.dtype)
    return torch.softmax(torch.cat((scores, sink), -1), -1, dtype=torch.float32)[..., :-1]


def _repeat(t: Tensor, num_heads: int) -> Tensor:
    groups = num_heads // t.shape[1]
    return t if groups == 1 else t.repeat_interleave(groups, 1)


def attention_function(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> tuple[Tensor, None]:
    """What transformers' `AttentionInterface` calls. No mask reaches it: for an implementation
    without a mask function transformers makes none. What else a layer gives is the same in every
    call and was recorded (`recording`)."""
    attention: SlotAttention = module.__dict__["slot_attention"]
    layer: int = module.__dict__["layer_idx"]
    return attention.attend(layer, query, key, value), None


def attach(model: nn.Module) -> SlotAttention:
    """Gives every attention module of `model` its way to the slots."""
    attention = SlotAttention()
    for module in model.modules():
        if hasattr(module, "layer_idx"):
            module.__dict__["slot_attention"] = attention
    return attention


def detach(model: nn.Module) -> None:
    for module in model.modules():
        module.__dict__.pop("slot_attention", None)
