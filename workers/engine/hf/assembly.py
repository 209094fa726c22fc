"""The parts between the engine's thread and the model: batched, or one sequence at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from workers.engine.hf.compatible.forward import OwnForward
from workers.engine.hf.compatible.interleaving import can_interleave
from workers.engine.hf.compatible.memory import measure_memory
from workers.engine.hf.compatible.turns import Turns
from workers.engine.hf.engine import Forward
from workers.engine.hf.loaded import LoadedModel
from workers.engine.hf.lora.places import AdapterPlaces
from workers.engine.hf.model import make_cache
from workers.engine.hf.packing import PackedForward
from workers.engine.hf.prefixes import Rows
from workers.engine.hf.scheduler import Scheduler
from workers.engine.hf.settings import HfSettings
from workers.engine.spec import EngineSpec

log = logging.getLogger(__name__)

_PREFILL_TOKENS = {"cpu": 512, "cuda": 4096}


@dataclass(frozen=True, slots=True)
class Parts:
    forward: Forward
    scheduler: Scheduler | Turns
    rows: Rows | Turns
    usage: Callable[[], float]
    """Share of the cache's memory that is in use."""


def assemble(
    loaded: LoadedModel, places: AdapterPlaces | None, spec: EngineSpec, settings: HfSettings
) -> Parts:
    """Raises SpecError."""
    if loaded.compatibility is not None:
        memory = measure_memory(loaded.model, loaded.max_model_len, settings)
        max_sequences = spec.max_num_seqs
        if not can_interleave(loaded.model):
            log.warning("the model keeps a sequence's state in itself: each runs to its end")
            max_sequences = 1
        turns = Turns(loaded, places, memory, max_sequences=max_sequences)
        return Parts(OwnForward(loaded, places, turns), turns, turns, lambda: turns.usage)
    cache = make_cache(loaded, spec, settings)
    rows = Rows(cache, settings.prefix_rows)
    scheduler = Scheduler(
        rows,
        places,
        max_rows=spec.max_num_seqs,
        prefill_tokens=settings.prefill_tokens_per_step or _PREFILL_TOKENS[loaded.device.type],
    )
    return Parts(PackedForward(loaded, places), scheduler, rows, lambda: cache.usage)
