"""Reward models: of two answers to one prompt, the chosen one is given the higher reward.

A value head beside the model gives a conversation's reward at its last token. What is left is a
whole model, with an adapter merged into it, and `value_head.safetensors` in the names of trl and
LLaMA-Factory: engines score with it. A base that has such a file goes on from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from workers.contract.model_files import VALUE_HEAD_FILE
from workers.contract.training import TrainSpec
from workers.trainer.batches import Batch, Row, collate
from workers.trainer.dataset import IGNORED, EncodedExamples, Sequence32
from workers.trainer.exports import merged, write_model
from workers.trainer.models import HEAD, TrainedModel, load_model
from workers.trainer.stages.pairs import Pairs, pair_sums
from workers.trainer.stages.preference_losses import bradley_terry
from workers.trainer.tally import Score
from workers.trainer.value_head import new_head, read_head


class RewardPairs(Pairs):
    @classmethod
    def open(cls, spec: TrainSpec) -> Self:
        model = load_model(spec)
        return cls(spec, replace(model, head=_head(model)))

    def prepare(self, examples: EncodedExamples, between: Callable[[], None]) -> None:
        """No reference is needed."""

    def collate(self, examples: EncodedExamples, rows: Sequence[Row]) -> Batch:
        """All chosen answers, then all rejected ones; each row's one target is at its last
        token."""
        pairs = [examples.sequences(index) for row in rows for index in row]
        lines = [[_scored_at_end(pair[side])] for side in (0, 1) for pair in pairs]
        batch = collate(lines)
        return replace(batch, weight=len(pairs), num_tokens=batch.num_tokens - len(lines))

    def loss(self, batch: Batch) -> Score:
        chosen, rejected = self._rewards(batch).view(2, -1)
        return Score(bradley_terry(chosen, rejected).sum(), pair_sums(chosen, rejected))

    def export(self, folder: Path) -> None:
        model, head = self.model, self.model.head
        assert head is not None
        if model.is_adapter:
            model = merged(model)
        write_model(model, folder)
        weights = {f"{HEAD}.{name}": each.cpu() for name, each in head.state_dict().items()}
        save_file(weights, folder / VALUE_HEAD_FILE, metadata={"format": "pt"})

    def _rewards(self, batch: Batch) -> Tensor:
        """[rows]"""
        model = self.model
        assert model.head is not None
        inputs = {"input_ids": batch.input_ids.to(model.device), "use_cache": False}
        with model.autocast():
            hidden = model.causal_lm.base_model(**inputs).last_hidden_state
        is_last = batch.targets.to(model.device) != IGNORED
        scored = hidden[:, batch.scored_columns.to(model.device)][is_last]
        return model.head(scored.float())[:, 0]


def _scored_at_end(sequence: Sequence32) -> Sequence32:
    """With one more token, which stands for the target of the last."""
    ids, labels = sequence
    return np.append(ids, np.int32(0)), np.append(np.full_like(labels, IGNORED), np.int32(0))


def _head(model: TrainedModel) -> torch.nn.Linear:
    """Of the base where it has one, else with the seed's weights. Raises TrainerError."""
    head = new_head(model)
    if (model.base_path / VALUE_HEAD_FILE).is_file():
        read_head(head, model.base_path, "model")
    return head
