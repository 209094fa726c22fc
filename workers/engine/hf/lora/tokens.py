"""Which tokens of a packed row each adapted layer sees, found by running the model once.

A step knows whose each token of the row is. A layer that sees only some of the tokens (an expert,
what lies behind the selection of logits), or several rows for each, cannot tell whose its rows are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from workers.engine.hf.lora.ends import LoraHead
from workers.engine.hf.lora.parts import AdaptedLayer


def layers_apart(
    layers: Mapping[str, AdaptedLayer], run: Callable[[], object], num_tokens: int
) -> frozenset[str]:
    """Those that are called with anything but one row for each token of the row that `run` runs
    through the model. The output layer is told which tokens it sees."""
    inside: dict[str, Any] = {
        name: layer for name, layer in layers.items() if not isinstance(layer, LoraHead)
    }
    found: set[str] = set()

    def note(name: str) -> Callable[[object, tuple[Tensor, ...]], None]:
        def look(_: object, arguments: tuple[Tensor, ...]) -> None:
            if _num_rows(arguments[0]) != num_tokens:
                found.add(name)

        return look

    hooks = [layer.register_forward_pre_hook(note(name)) for name, layer in inside.items()]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return frozenset(found)


def _num_rows(given: Tensor) -> int:
    """Of ids, or of vectors."""
    return given.numel() // given.shape[-1] if given.is_floating_point() else given.numel()
