"""What a sequence's cache takes, measured at start: a part that is there from the first token, and
one that grows with every token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psutil
import torch

from workers.engine.hf.compatible.caches import OwnCache
from workers.engine.hf.settings import HfSettings
from workers.engine.spec import SpecError
from workers.models.comparison import probe_ids

_SHORT, _LONG = 12, 36


@dataclass(frozen=True, slots=True)
class CacheMemory:
    fixed_bytes: int
    token_bytes: int
    budget_bytes: int

    def needed(self, length: int) -> int:
        return self.fixed_bytes + self.token_bytes * length


@torch.inference_mode()
def measure_memory(model: Any, max_model_len: int, settings: HfSettings) -> CacheMemory:
    """Raises SpecError if not even one sequence of full length would fit."""
    lengths = [min(length, max_model_len) for length in (_SHORT, _LONG)]
    short, long = (_bytes_of(model, length) for length in lengths)
    per_token = max(0, long - short) // max(1, lengths[1] - lengths[0])
    fixed = max(0, short - per_token * lengths[0])
    budget = settings.kv_cache_bytes or _free_bytes(model.device)
    memory = CacheMemory(fixed, per_token, budget)
    if memory.needed(max_model_len) > budget:
        raise SpecError(
            f"one sequence of max_model_len {max_model_len} needs {memory.needed(max_model_len)} "
            f"bytes of cache, and there are {budget}: lower max_model_len or raise kv_cache_bytes"
        )
    return memory


def _bytes_of(model: Any, length: int) -> int:
    cache = OwnCache(model)
    cache.compute(probe_ids(length, model.config.get_text_config().vocab_size), all_logits=False)
    return cache.num_bytes


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * 0.8)
    return psutil.virtual_memory().available // 4
