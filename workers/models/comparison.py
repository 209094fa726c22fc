"""Logits of one model by two ways, and how far they may lie apart."""

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}
"""Largest difference of logits, as a share of their spread: what another order of additions may
make of them, far below what another mask does."""


def difference(expected: Tensor, found: Tensor) -> float:
    """As a share of the spread of what is expected; NaN if either holds one."""
    expected, found = expected.float(), found.float()
    spread = float(expected.max() - expected.min()) or 1.0
    return float((expected - found).abs().max()) / spread


def probe_ids(length: int, vocab_size: int, offset: int = 0) -> list[int]:
    """Token ids that differ from neighbour to neighbour and between offsets."""
    return [(7 * (n + 1) + 11 * offset) % vocab_size for n in range(length)]
