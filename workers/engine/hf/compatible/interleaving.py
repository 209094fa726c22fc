"""Whether sequences may take turns on a model: some keep a sequence's state in their own modules
and not in its cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from workers.engine.hf.compatible.caches import OwnCache
from workers.models.comparison import TOLERANCE, difference, probe_ids

_PROMPT, _LENGTH = 6, 9


@torch.inference_mode()
def can_interleave(model: Any) -> bool:
    """Two sequences, token by token in turn, get the logits of each alone."""
    vocab_size: int = model.config.get_text_config().vocab_size
    both = [probe_ids(_LENGTH, vocab_size, n) for n in (0, 1)]
    alone = [_in_turn(model, [ids])[0] for ids in both]
    together = _in_turn(model, both)
    pairs = zip(alone, together, strict=True)
    return all(difference(one, other) <= TOLERANCE[model.dtype] for one, other in pairs)


def _in_turn(model: Any, sequences: list[list[int]]) -> list[Tensor]:
    caches = [OwnCache(model) for _ in sequences]
    found: list[list[Tensor]] = [[] for _ in sequences]
    for end in range(_PROMPT, _LENGTH + 1):
        start = 0 if end == _PROMPT else end - 1
        for cache, ids, logits in zip(caches, sequences, found, strict=True):
            logits.append(cache.compute(ids[start:end], all_logits=False))
    return [torch.cat(logits) for logits in found]
