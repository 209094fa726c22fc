"""Lets SGLang import on a machine without CUDA. Only tests put this folder on `PYTHONPATH`, so it
reaches the engine's own child processes too.

- torchvision's wheel is linked against CUDA and registers fake kernels for operators its library
  would have declared: they are declared here (and never run).
- SGLang's LoRA code pins host memory without asking whether there is a GPU to copy it to.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

try:
    import torch
except ImportError:  # another interpreter, started by the engine for something else
    torch = None


def _without_pinning(factory: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(factory)
    def unpinned(*args: Any, **kwargs: Any) -> Any:
        kwargs.pop("pin_memory", None)
        return factory(*args, **kwargs)

    return unpinned


def _declare_torchvision_operators() -> None:
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    # The library must outlive this call: its operators vanish with it.
    torch._tuneyard_test_operators = operators


if torch is not None and not torch.cuda.is_available():
    _declare_torchvision_operators()
    torch.Tensor.pin_memory = lambda self, *_args, **_kwargs: self
    for name in ("empty", "zeros", "ones", "full", "tensor", "arange"):
        setattr(torch, name, _without_pinning(getattr(torch, name)))
