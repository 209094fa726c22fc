"""The forward pass of plain decoders, in as few operations as torch allows.

A stock model spends most of a small step on setting up operations. Where all layers are norm,
attention, norm and gated MLP, far fewer do. Weights, adapters and the cache are
those of the stock model, which stays as it is for everything else (embeddings, pictures); how
attention is called is what the stock layers were seen to do. What is made here is compared with the
stock model before it is used.

Shape letters: T tokens of the step, I hidden size, H query heads, K key/value heads, D head size,
N tokens whose logits are wanted, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workers.engine.hf.attention import Chunk, SlotAttention, StepLayout
from workers.engine.hf.kv import SlotCache
from workers.engine.hf.lora.layer import LoraLinear, SharedInput
from workers.engine.hf.slabs import Row, token_bytes

_FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
_ROPES = frozenset({"default", "linear", "yarn", "llama3"})
"""Those whose angles depend on a token's position alone."""


class _NotPlainError(Exception):
    """Some part of the model is not what this file computes."""


@dataclass(frozen=True, slots=True)
class _Norm:
    weight: Tensor
    eps: float
    eps_tensor: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Over the last dimension, in float32; the weight may differ between heads."""
        if x.device.type != "cpu":
            return F.rms_norm(x, x.shape[-1:], None, self.eps).mul_(self.weight)
        y = x.float()
        length = torch.linalg.vector_norm(y, 2, -1, True)
        mean = torch.addcmul(self.eps_tensor, length, length, value=1 / x.shape[-1])
        return (y * mean.rsqrt_()).to(x.dtype).mul_(self.weight)


@dataclass(frozen=True, slots=True)
class _Layer:
    index: int
    attention_norm: _Norm
    query_key_value: SharedInput
    head_norm: _Norm | None
    output: SharedInput
    mlp_norm: _Norm
    gate_up: SharedInput
    down: SharedInput


class DenseDecoder:
    """Raises _NotPlainError."""

    def __init__(self, model: Any, attention: SlotAttention, max_model_len: int) -> None:
        config, stock = model.config, model.model
        self._attention = attention
        self._num_heads: int = config.num_attention_heads
        self._num_kv_heads: int = config.num_key_value_heads
        self._layers = [self._read(layer, n) for n, layer in enumerate(stock.layers)]
        self._norm = _read_norm(stock.norm)
        self._embed: nn.Module = stock.embed_tokens
        self._head: nn.Module = model.lm_head
        self._cos_LD, self._sin_LD = _angles(
            stock.rotary_emb, stock.embed_tokens.weight, max_model_len
        )
        self._size = self._cos_LD.shape[1]
        if any(shape.key_size != self._size for shape in attention.seen.values()):
            raise _NotPlainError("only part of a head is rotated")

    def _read(self, layer: Any, index: int) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        if mlp.act_fn.__class__.__name__ not in ("SiLU", "SiLUActivation"):
            raise _NotPlainError("the MLP's activation is not silu")
        return _Layer(
            index,
            _read_norm(layer.input_layernorm),
            _group([attention.q_proj, attention.k_proj, attention.v_proj]),
            self._read_head_norm(attention),
            _group([attention.o_proj]),
            _read_norm(layer.post_attention_layernorm),
            _group([mlp.gate_proj, mlp.up_proj]),
            _group([mlp.down_proj]),
        )

    def _read_head_norm(self, attention: Any) -> _Norm | None:
        """Of queries and keys at once."""
        if not hasattr(attention, "q_norm"):
            return None
        query, key = _read_norm(attention.q_norm), _read_norm(attention.k_norm)
        if query.eps != key.eps:
            raise _NotPlainError("queries and keys are not normed alike")
        heads = (self._num_heads, self._num_kv_heads)
        weights = [n.weight.expand(count, -1) for n, count in zip((query, key), heads, strict=True)]
        return _Norm(torch.cat(weights), query.eps, query.eps_tensor)

    def logits(self, ids_T: Tensor, positions_T: Tensor, keep_N: Tensor | None) -> Tensor:
        """[N, V] of the tokens at `keep_N`; None: of all."""
        x_TI = self._embed(ids_T)
        cos_T1D = self._cos_LD.index_select(0, positions_T)[:, None]
        sin_T1D = self._sin_LD.index_select(0, positions_T)[:, None]
        for layer in self._layers:
            x_TI.add_(self._attend(layer, layer.attention_norm(x_TI), cos_T1D, sin_T1D))
            gate, up = layer.gate_up.compute(layer.mlp_norm(x_TI)).chunk(2, -1)
            x_TI.add_(layer.down.compute(F.silu(gate).mul_(up)))
        x_NI = x_TI if keep_N is None else x_TI.index_select(0, keep_N)
        return self._head(self._norm(x_NI))

    def _attend(self, layer: _Layer, x_TI: Tensor, cos_T1D: Tensor, sin_T1D: Tensor) -> Tensor:
        num_tokens, num_heads, num_kv_heads = x_TI.shape[0], self._num_heads, self._num_kv_heads
        heads = layer.query_key_value.compute(x_TI).view(num_tokens, -1, self._size)
        turning, value_TKD = heads.split_with_sizes((num_heads + num_kv_heads, num_kv_heads), 1)
        if layer.head_norm is not None:
            turning = layer.head_norm(turning)
        turned = turning * cos_T1D
        turned.addcmul_(torch.roll(turning, self._size // 2, -1), sin_T1D)
        query_THD, key_TKD = turned.split_with_sizes((num_heads, num_kv_heads), 1)
        out = self._attention.attend_packed(layer.index, query_THD, key_TKD, value_TKD)
        return layer.output.compute(out.reshape(num_tokens, -1))


def dense_decoder(
    model: Any, attention: SlotAttention, max_model_len: int
) -> tuple[DenseDecoder | None, str]:
    """None, and why, if the model is not a plain decoder."""
    config = model.config
    if config.model_type not in _FAMILIES or not type(model).__module__.startswith("transformers."):
        return None, f"{config.model_type} has layers of its own"
    try:
        return DenseDecoder(model, attention, max_model_len), ""
    except _NotPlainError as error:
        return None, str(error)


@torch.inference_mode()
def probe_decoder(
    decoder: DenseDecoder, attention: SlotAttention, ids_T: Tensor, dtype: torch.dtype
) -> Tensor:
    """Float32 logits of all tokens of a prompt, through a cache of their own."""
    size, device = ids_T.shape[0], ids_T.device
    layers = [attention.seen[index] for index in sorted(attention.seen)]
    budget = size * token_bytes(layers, dtype)
    cache = SlotCache(layers, dtype=dtype, device=device, budget_bytes=budget, max_length=size)
    row = Row()
    cache.reserve([(row, size)])
    attention.layout = StepLayout([], [Chunk(row, 0, size, 0)])
    try:
        return decoder.logits(ids_T, torch.arange(size, device=device), None).float()
    finally:
        attention.layout = None


def _group(layers: Sequence[nn.Module]) -> SharedInput:
    """The group that these layers, in this order, are the whole of."""
    groups = [layer.group for layer in layers if isinstance(layer, LoraLinear)]
    if len(groups) < len(layers) or any(group is not groups[0] for group in groups):
        raise _NotPlainError("layers of one input are of different kinds")
    if [layer.out_features for layer in layers] != groups[0].sizes:
        raise _NotPlainError("a layer's input is read by others too")
    return groups[0]


def _read_norm(norm: Any) -> _Norm:
    weight: Tensor = norm.weight
    eps: float = norm.variance_epsilon
    return _Norm(weight, eps, torch.tensor(eps, device=weight.device))


def _angles(rotary: Any, like: Tensor, max_model_len: int) -> tuple[Tensor, Tensor]:
    """Of all positions; the sines' first half negated, as the other half of a head is added."""
    if rotary.rope_type not in _ROPES:
        raise _NotPlainError(f"angles of rope type {rotary.rope_type} depend on the prompt")
    positions = torch.arange(max_model_len, device=like.device)[None]
    cos, sin = (t[0].clone() for t in rotary(like, positions))
    sin[:, : sin.shape[1] // 2].neg_()
    return cos, sin
