"""The forward pass of one sequence's turn."""

from __future__ import annotations

from torch import Tensor

from workers.engine.hf.compatible.turns import Turns
from workers.engine.hf.loaded import LoadedModel
from workers.engine.hf.lora.places import AdapterPlaces
from workers.engine.hf.lora.plan import plan_one_adapter
from workers.engine.hf.scheduler import Step


class OwnForward:
    def __init__(self, loaded: LoadedModel, places: AdapterPlaces | None, turns: Turns) -> None:
        self._loaded = loaded
        self._places = places
        self._turns = turns

    def logits(self, step: Step) -> Tensor:
        """Float32 [N, V], as many as the engine wants of the step."""
        (part,) = [*step.decode, *step.chunks]
        sequence = part.sequence
        if self._places is not None:
            block = self._places.columns(sequence.adapter)
            plan_one_adapter(self._loaded.adapter_step, block)
        scores_prompt = sequence.prompt_scores is not None and not sequence.num_output
        ids = sequence.tokens[part.start : part.end].tolist()
        try:
            return self._turns.cache_of(sequence).compute(ids, all_logits=scores_prompt)
        except (MemoryError, RuntimeError):
            self._turns.restart(sequence)
            raise
