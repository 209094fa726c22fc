"""Loss and accuracy of a batch, from the logits of scored columns only.

Prompts have no targets, so most of a chat's logits are never needed; `logits_to_keep` of
transformers models leaves them out. Accuracy is that of the most likely token.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from workers.trainer.batches import Batch
from workers.trainer.dataset import IGNORED
from workers.trainer.models import TrainedModel


@dataclass(slots=True)
class Tally:
    """Sums over target tokens."""

    loss: float = 0.0
    correct: int = 0
    num_targets: int = 0

    def add(self, other: Tally) -> None:
        self.loss += other.loss
        self.correct += other.correct
        self.num_targets += other.num_targets

    @property
    def mean_loss(self) -> float:
        return self.loss / max(self.num_targets, 1)

    @property
    def accuracy(self) -> float:
        return self.correct / max(self.num_targets, 1)


@dataclass(frozen=True, slots=True)
class BatchScore:
    """Sums over the batch, still on the device; `loss` carries the graph."""

    loss: torch.Tensor
    correct: torch.Tensor


class Scorer:
    def __init__(self, model: TrainedModel) -> None:
        self._model = model
        accepted = inspect.signature(model.causal_lm.forward).parameters
        self._selects_logits = "logits_to_keep" in accepted

    def score(self, batch: Batch) -> BatchScore:
        device = self._model.device
        targets = batch.targets.to(device)
        logits = self._logits(batch, device)
        flat = logits.flatten(0, 1)
        wanted = targets.flatten()
        loss = functional.cross_entropy(flat.float(), wanted, ignore_index=IGNORED, reduction="sum")
        with torch.no_grad():
            correct = (flat.argmax(-1) == wanted).sum()
        return BatchScore(loss, correct)

    def _logits(self, batch: Batch, device: torch.device) -> torch.Tensor:
        inputs: dict[str, Any] = {
            "input_ids": batch.input_ids.to(device),
            "use_cache": False,
        }
        if batch.position_ids is not None:
            inputs["position_ids"] = batch.position_ids.to(device)
        columns = batch.scored_columns.to(device)
        with self._model.autocast():
            if self._selects_logits:
                return self._model.module(**inputs, logits_to_keep=columns).logits
            return self._model.module(**inputs).logits[:, columns]

    def measure(self, batches: list[Batch], between: Callable[[], None]) -> Tally:
        """Scores without training; leaves the model in training mode. `between` may raise."""
        tally = Tally()
        self._model.module.eval()
        try:
            with torch.no_grad():
                for batch in batches:
                    between()
                    score = self.score(batch)
                    tally.loss += float(score.loss)
                    tally.correct += int(score.correct)
                    tally.num_targets += batch.num_targets
        finally:
            self._model.module.train()
        return tally
