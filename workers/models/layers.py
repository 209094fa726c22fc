"""Which modules are linear layers that adapters can be added to."""

from __future__ import annotations

from torch import nn
from transformers.pytorch_utils import Conv1D

_ALSO_PLAIN = frozenset({"FalconLinear"})
"""Kinds of `nn.Linear` in transformers that compute what it does."""


def is_linear(module: object) -> bool:
    """Also where another library made the layer (bitsandbytes); GPT-2's `Conv1D` lies by inputs.
    Routers and grouped layers in transformers that inherit from `nn.Linear` compute otherwise."""
    if isinstance(module, Conv1D):
        return True
    if not isinstance(module, nn.Linear):
        return False
    return is_plain(module) or not type(module).__module__.startswith("transformers.models.")


def is_plain(module: object) -> bool:
    """Inputs times weights and a bias, in the weights' own type."""
    return type(module) is nn.Linear or type(module).__name__ in _ALSO_PLAIN
