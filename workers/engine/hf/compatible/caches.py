"""One sequence's state in transformers' own cache, whatever its kind.

Goes the way of `GenerationMixin._sample` in transformers 5.23, whose hooks every generating model
has: `prepare_inputs_for_generation` and `_update_model_kwargs_for_generation`.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation.configuration_utils import GenerationMode


class OwnCache:
    def __init__(self, model: Any) -> None:
        self._model = model
        self._ids_1T = torch.empty(1, 0, dtype=torch.long, device=model.device)
        self._options: dict[str, Any] = {"use_cache": True}
        model._prepare_cache_for_generation(
            GenerationConfig(use_cache=True), self._options, GenerationMode.GREEDY_SEARCH, 1, 0
        )

    def compute(self, ids: list[int], *, all_logits: bool) -> Tensor:
        """Float32 logits of the next tokens: [T, V] of all `ids`, or [1, V] of the last. The first
        call takes the whole prompt, later ones a token each."""
        model, options = self._model, self._options
        fresh = torch.tensor([ids], device=self._ids_1T.device)
        is_first = self._ids_1T.shape[1] == 0
        self._ids_1T = torch.cat((self._ids_1T, fresh), 1)
        if is_first:
            self._begin(len(ids))
        if model._supports_logits_to_keep():
            options["logits_to_keep"] = 0 if all_logits else 1
        inputs = model.prepare_inputs_for_generation(
            self._ids_1T,
            next_sequence_length=None if is_first else 1,
            is_first_iteration=is_first,
            **options,
        )
        outputs = model(**inputs, return_dict=True)
        self._options = model._update_model_kwargs_for_generation(outputs, options)
        logits_TV = outputs.logits[0]
        return logits_TV.float() if all_logits else logits_TV[-1:].float()

    @property
    def num_bytes(self) -> int:
        return _num_bytes(self._options, set())

    def _begin(self, length: int) -> None:
        accepted = inspect.signature(self._model.forward).parameters
        if "position_ids" in accepted:
            self._options["position_ids"] = torch.arange(length, device=self._ids_1T.device)[None]
        if "attention_mask" in accepted:
            self._options["attention_mask"] = None


def _num_bytes(held: object, seen: set[int]) -> int:
    """Of all tensors in containers and objects, each once."""
    if id(held) in seen or isinstance(held, type | str | int | float | None):
        return 0
    seen.add(id(held))
    if isinstance(held, Tensor):
        return held.nbytes
    if isinstance(held, dict):
        return sum(_num_bytes(value, seen) for value in held.values())
    if isinstance(held, list | tuple):
        return sum(_num_bytes(value, seen) for value in held)
    if type(held).__module__.startswith("transformers.") and hasattr(held, "__dict__"):
        return _num_bytes(vars(held), seen)
    return 0
