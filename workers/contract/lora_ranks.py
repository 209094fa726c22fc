"""Ranks of adapters that an engine can be started for."""

from __future__ import annotations

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""vLLM takes no others: `vllm.config.lora.MaxLoRARanks`."""


def vllm_rank(rank: int) -> int | None:
    """The rank that vLLM is started with to serve adapters of up to `rank`; None where it has
    none."""
    return next((served for served in VLLM_RANKS if rank <= served), None)
