"""The model's logits in the columns of a batch that are scored."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from workers.models.evaluating import evaluating
from workers.trainer.batches import Batch
from workers.trainer.models import TrainedModel


class Forward:
    def __init__(self, model: TrainedModel) -> None:
        self._model = model
        accepted = inspect.signature(model.causal_lm.forward).parameters
        self._selects_logits = "logits_to_keep" in accepted

    @torch.no_grad()
    def base_logits(self, batch: Batch) -> torch.Tensor:
        """As `logits`, of the model without its adapter, as it answers: without dropout or
        noise."""
        module: Any = self._model.module
        with evaluating(module), module.disable_adapter():
            return self.logits(batch)

    def logits(self, batch: Batch) -> torch.Tensor:
        """[rows, scored columns, vocabulary]"""
        return self._pass(batch)[0]

    def logits_and_hidden(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """As `logits`, and the last hidden states in the same columns."""
        logits, output = self._pass(batch, output_hidden_states=True)
        return logits, output.hidden_states[-1][:, batch.scored_columns.to(self._model.device)]

    def _pass(self, batch: Batch, **options: Any) -> tuple[torch.Tensor, Any]:
        """The logits, and all that the model gives."""
        device = self._model.device
        inputs: dict[str, Any] = {"input_ids": batch.input_ids.to(device), "use_cache": False}
        if batch.position_ids is not None:
            inputs["position_ids"] = batch.position_ids.to(device)
        if batch.lengths is not None:
            inputs["sequence_lengths"] = batch.lengths
        columns = batch.scored_columns.to(device)
        with self._model.autocast():
            if self._selects_logits:
                output = self._model.module(**inputs, **options, logits_to_keep=columns)
                return output.logits, output
            output = self._model.module(**inputs, **options)
            return output.logits[:, columns], output
