"""Reading a checked adapter's weights, off the engine's thread."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from workers.contract.adapter_layout import WEIGHTS_FILE
from workers.contract.parts import AdapterRef
from workers.engine.adapter_files import (
    AdapterFacts,
    Layer,
    check_adapter,
    invalid,
    pattern_value,
)
from workers.engine.adapter_kinds import AdapterRules
from workers.engine.hf.lora.parts import AdaptedLayer, LayerWeights

_NORM_ROWS = 1024
"""So many outputs' weights are in memory at once while their lengths are computed."""


@dataclass(frozen=True, eq=False)
class AdapterWeights:
    name: str
    uid: int
    rank: int
    """The largest of its layers' ranks."""
    layers: dict[str, LayerWeights]

    @cached_property
    def num_bytes(self) -> int:
        return sum(part.num_bytes for part in self.layers.values())

    @cached_property
    def whole_bytes(self) -> int:
        """Of weights that stand in place of the base's."""
        wholes = (part.whole for part in self.layers.values())
        return sum(whole.nbytes for whole in wholes if whole is not None)


def read_adapter(
    ref: AdapterRef,
    layers: Mapping[str, AdaptedLayer],
    rules: AdapterRules,
    dtype: torch.dtype,
    max_whole_bytes: int = 0,
    unserved: frozenset[str] = frozenset(),
) -> AdapterWeights:
    """`layers` are the model's, of which the `unserved` take no adapters. Raises RefusedError."""
    shapes = {f"{name}.weight": (x.out_features, x.in_features) for name, x in layers.items()}
    facts = check_adapter(ref, shapes, rules)
    for module in sorted(unserved & facts.layers.keys()):
        raise invalid(
            ref, f"{module} does not see every token of a batch, so it cannot tell whose they are"
        )
    found: dict[str, LayerWeights] = {}
    try:
        with safe_open(Path(ref.path) / WEIGHTS_FILE, framework="pt", device="cpu") as tensors:
            for module, layer in facts.layers.items():
                reader = _LayerReader(ref, module, layer, facts, tensors, dtype)
                found[module] = reader.read(layers[module])
    except (OSError, SafetensorError) as error:
        raise invalid(ref, "its files cannot be read") from error
    weights = AdapterWeights(ref.name, ref.uid, max(facts.modules.values(), default=1), found)
    if weights.whole_bytes > max_whole_bytes:
        raise invalid(
            ref,
            f"its trained embeddings and output layer need {weights.whole_bytes} bytes, over the "
            f"limit of {max_whole_bytes}: raise saved_modules_bytes in the entry's settings",
        )
    return weights


@dataclass(frozen=True, slots=True)
class _LayerReader:
    """Of one layer of an adapter."""

    ref: AdapterRef
    module: str
    layer: Layer
    facts: AdapterFacts
    tensors: Any
    dtype: torch.dtype

    def read(self, served: AdaptedLayer) -> LayerWeights:
        layer = self.layer
        whole = None if layer.whole is None else self._cast(self._get(layer.whole))
        base = served.base_weight()
        if whole is not None and base is not None and torch.equal(whole, base.to("cpu")):
            whole = None
        if layer.a is None or layer.b is None:
            return LayerWeights(whole=whole)
        a, b = self._get(layer.a), self._get(layer.b) * self._scaling()
        scale = None
        if layer.magnitude is not None:
            if base is None:
                raise invalid(self.ref, "DoRA on quantized weights is not served")
            weight = base if whole is None else whole
            turned = weight.t() if layer.is_embedding else weight
            scale = self._get(layer.magnitude) / _lengths(turned, a, b)
            b = b * scale[:, None]
            scale = self._finite(scale.to(self.dtype))
        return LayerWeights((self._cast(a), self._cast(b.t())), scale, whole)

    def _get(self, name: str) -> Tensor:
        return self.tensors.get_tensor(name).float()

    def _scaling(self) -> float:
        config, rank = self.facts.config, self.layer.rank
        patterns = config.get("alpha_pattern") or {}
        alpha = pattern_value(patterns, self.module, config["lora_alpha"])
        return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank

    def _cast(self, tensor: Tensor) -> Tensor:
        return self._finite(tensor.to(self.dtype).contiguous())

    def _finite(self, tensor: Tensor) -> Tensor:
        """A weight that is not a number would spoil the other rows of its batch; so would one too
        large for the model's type."""
        if not bool(torch.isfinite(tensor).all()):
            raise invalid(
                self.ref,
                f"{self.module} holds NaN or infinity, or a value too large for "
                f"{str(self.dtype).removeprefix('torch.')}",
            )
        return tensor


def _lengths(weight: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Of each output's weights with the adapter added."""
    found: list[Tensor] = []
    for first in range(0, weight.shape[0], _NORM_ROWS):
        rows = slice(first, first + _NORM_ROWS)
        found.append(torch.linalg.norm(weight[rows].float().cpu() + b[rows] @ a, dim=1))
    return torch.cat(found)


class AdapterCache:
    """Adapters read and checked but not resident, least-recently-used out. For the event loop's
    thread alone."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._weights: OrderedDict[str, AdapterWeights] = OrderedDict()
        self._num_bytes = 0

    def get(self, name: str) -> AdapterWeights | None:
        weights = self._weights.get(name)
        if weights is not None:
            self._weights.move_to_end(name)
        return weights

    def put(self, weights: AdapterWeights) -> None:
        self.drop(weights.name)
        self._weights[weights.name] = weights
        self._num_bytes += weights.num_bytes
        while self._num_bytes > self._max_bytes and len(self._weights) > 1:
            self.drop(next(iter(self._weights)))

    def drop(self, name: str) -> None:
        weights = self._weights.pop(name, None)
        if weights is not None:
            self._num_bytes -= weights.num_bytes
