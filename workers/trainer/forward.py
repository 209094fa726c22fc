"""The model's logits in the columns of a batch that are scored."""

from __future__ import annotations

import inspect
from typing import Any

import torch

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
        was_training = module.training
        module.eval()
        try:
            with module.disable_adapter():
                return self.logits(batch)
        finally:
            module.train(was_training)

    def logits(self, batch: Batch) -> torch.Tensor:
        """[rows, scored columns, vocabulary]"""
        device = self._model.device
        inputs: dict[str, Any] = {"input_ids": batch.input_ids.to(device), "use_cache": False}
        if batch.position_ids is not None:
            inputs["position_ids"] = batch.position_ids.to(device)
        if batch.lengths is not None:
            inputs["sequence_lengths"] = batch.lengths
        columns = batch.scored_columns.to(device)
        with self._model.autocast():
            if self._selects_logits:
                return self._model.module(**inputs, logits_to_keep=columns).logits
            return self._model.module(**inputs).logits[:, columns]
