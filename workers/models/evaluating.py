"""Evaluation mode for a while: without dropout, and as the model answers."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Generator[None]:
    """The module is in evaluation mode inside, and in its own mode again behind."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)
