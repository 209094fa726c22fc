"""Putting adapted layers into a stock model: which linear layers read the same input is seen by
running the model once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from workers.engine.hf.lora.layer import LoraLinear, SharedInput
from workers.engine.hf.lora.plan import AdapterStep
from workers.engine.hf.lora.quantized import QuantizedLora
from workers.models.layers import is_plain


def wrap_linears(
    model: nn.Module,
    width: int,
    step: AdapterStep,
    run: Callable[[], object],
    within: nn.Module | None = None,
) -> dict[str, LoraLinear]:
    """Replaces every linear layer of `within` (None: of the whole model) but the output
    layer (see `ends`); gives them by their names in the model. `run` runs the model."""
    _turn_convolutions(within or model)
    output_layer = getattr(model, "get_output_embeddings", lambda: None)()
    inside = set((within or model).modules())
    linears = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and is_plain(module)
        and module is not output_layer
        and module in inside
    }
    wrapped: dict[str, LoraLinear] = {}
    for names in _find_groups(linears, run):
        group = SharedInput([linears[name] for name in names], width, step)
        for member, name in enumerate(names):
            parent_name, _, child = name.rpartition(".")
            wrapped[name] = LoraLinear(group, member)
            setattr(model.get_submodule(parent_name), child, wrapped[name])
            # Its weights are in the group's: two copies of a model need not fit.
            del linears[name]
    return {name: wrapped[name] for name in sorted(wrapped)}


def _turn_convolutions(model: nn.Module) -> None:
    """GPT-2's Conv1D is a linear layer whose weights lie by inputs."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is Conv1D:
                num_in, num_out = child.weight.shape
                linear = nn.Linear(num_in, num_out, device="meta")
                linear.weight = nn.Parameter(child.weight.data.t(), requires_grad=False)
                linear.bias = nn.Parameter(child.bias.data, requires_grad=False)
                setattr(parent, name, linear)


def _find_groups(linears: dict[str, nn.Linear], run: Callable[[], object]) -> list[list[str]]:
    """Siblings called once each, one right after another, with the same tensor."""
    calls: list[tuple[str, Tensor]] = []

    def note(name: str) -> Callable[[nn.Module, Sequence[Any]], None]:
        return lambda _, arguments: calls.append((name, arguments[0]))

    hooks = [linear.register_forward_pre_hook(note(name)) for name, linear in linears.items()]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    called = [name for name, _ in calls]
    groups: list[list[str]] = []
    last: Tensor | None = None
    for name, x in calls:
        if called.count(name) > 1:
            last = None
            continue
        if x is last and _are_alike(linears, groups[-1][-1], name):
            groups[-1].append(name)
        else:
            groups.append([name])
        last = x
    grouped = {name for group in groups for name in group}
    return [*groups, *([name] for name in linears if name not in grouped)]


def _are_alike(linears: dict[str, nn.Linear], one: str, other: str) -> bool:
    a, b = linears[one].weight, linears[other].weight
    is_sibling = one.rpartition(".")[0] == other.rpartition(".")[0]
    return is_sibling and a.dtype == b.dtype and a.device == b.device


def wrap_quantized(
    model: nn.Module,
    kinds: tuple[type[nn.Linear], ...],
    width: int,
    step: AdapterStep,
    dtype: torch.dtype,
    within: nn.Module | None = None,
) -> dict[str, QuantizedLora]:
    """Puts places for adapters beside every layer of `within` of these kinds; gives them by their
    names in the model."""
    linears = {name: module for name, module in model.named_modules() if isinstance(module, kinds)}
    inside = set((within or model).modules())
    wrapped: dict[str, QuantizedLora] = {}
    for name, linear in linears.items():
        if linear in inside:
            parent_name, _, child = name.rpartition(".")
            wrapped[name] = QuantizedLora(linear, width, step, dtype)
            setattr(model.get_submodule(parent_name), child, wrapped[name])
    return wrapped
