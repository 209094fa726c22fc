"""How a lack of memory is known."""

from __future__ import annotations

import torch


def is_out_of_memory(error: Exception) -> bool:
    """CUDA has its own error; the CPU allocator raises a RuntimeError known by its text alone
    (c10/core/impl/alloc_cpu.cpp)."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
