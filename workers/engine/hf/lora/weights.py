"""Reading a checked adapter's weights, off the engine's thread."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from workers.contract.messages import FailureKind
from workers.contract.parts import AdapterRef
from workers.engine.adapter_files import AdapterRules, Shapes, check_adapter, pattern_value
from workers.engine.backend import RefusedError

_PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True, eq=False)
class AdapterWeights:
    """Per adapted layer A [rank, in] and B transposed [rank, out], with the scaling in B."""

    name: str
    uid: int
    rank: int
    """The largest of its layers' ranks."""
    layers: dict[str, tuple[Tensor, Tensor]]

    @property
    def num_bytes(self) -> int:
        return sum(a.nbytes + b.nbytes for a, b in self.layers.values())


def read_adapter(
    ref: AdapterRef, base: Shapes, rules: AdapterRules, dtype: torch.dtype
) -> AdapterWeights:
    """Raises RefusedError."""
    facts = check_adapter(ref, base, rules)
    layers: dict[str, tuple[Tensor, Tensor]] = {}
    try:
        file = Path(ref.path) / "adapter_model.safetensors"
        with safe_open(file, framework="pt", device="cpu") as tensors:
            stored: dict[str, str] = {
                name.removeprefix(_PEFT_PREFIX): name
                for name in tensors.keys()  # noqa: SIM118
            }
            for module, rank in facts.modules.items():
                a = tensors.get_tensor(stored[f"{module}.lora_A.weight"]).float()
                b = tensors.get_tensor(stored[f"{module}.lora_B.weight"]).float()
                b_scaled = b.t().mul(_scaling(facts.config, module, rank))
                factors = (a.to(dtype).contiguous(), b_scaled.to(dtype).contiguous())
                _check_finite(ref, module, *factors)
                layers[module] = factors
    except (OSError, SafetensorError) as error:
        message = f"Adapter {ref.name!r} cannot be served: its files cannot be read."
        raise RefusedError(FailureKind.ADAPTER_INVALID, message, "model") from error
    return AdapterWeights(ref.name, ref.uid, max(facts.modules.values()), layers)


def _scaling(config: dict[str, Any], module: str, rank: int) -> float:
    alpha = pattern_value(config.get("alpha_pattern") or {}, module, config["lora_alpha"])
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _check_finite(ref: AdapterRef, module: str, *factors: Tensor) -> None:
    """A weight that is not a number would spoil the other rows of its batch; so would one too large
    for the model's type."""
    if not all(bool(torch.isfinite(factor).all()) for factor in factors):
        message = (
            f"Adapter {ref.name!r} cannot be served: {module} holds NaN or infinity, or a value "
            f"too large for {str(factors[0].dtype).removeprefix('torch.')}."
        )
        raise RefusedError(FailureKind.ADAPTER_INVALID, message, "model")


class AdapterShelf:
    """Adapters read and checked but not resident, least-recently-used out. For the event loop's
    thread alone."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._shelf: OrderedDict[str, AdapterWeights] = OrderedDict()
        self._num_bytes = 0

    def get(self, name: str) -> AdapterWeights | None:
        weights = self._shelf.get(name)
        if weights is not None:
            self._shelf.move_to_end(name)
        return weights

    def put(self, weights: AdapterWeights) -> None:
        self.drop(weights.name)
        self._shelf[weights.name] = weights
        self._num_bytes += weights.num_bytes
        while self._num_bytes > self._max_bytes and len(self._shelf) > 1:
            self.drop(next(iter(self._shelf)))

    def drop(self, name: str) -> None:
        weights = self._shelf.pop(name, None)
        if weights is not None:
            self._num_bytes -= weights.num_bytes
