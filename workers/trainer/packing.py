"""Refuses to pack examples for a model that would mix them."""

from __future__ import annotations

import torch

from workers.models.isolation import find_mixing
from workers.trainer.failures import InvalidHyperparameters
from workers.trainer.models import TrainedModel


def check_packing(model: TrainedModel) -> None:
    """Raises InvalidHyperparameters."""
    config = model.causal_lm.config

    def forward(ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        with model.autocast():
            inputs = {"input_ids": ids, "position_ids": positions}
            return model.module(**inputs, use_cache=False).logits

    vocab_size: int = config.get_text_config().vocab_size
    mixing = find_mixing(model.module, forward, vocab_size, model.compute_dtype)
    if mixing is not None:
        raise InvalidHyperparameters(
            f"'packing' cannot be used with this model ({config.model_type}): {mixing}. "
            "Set packing to false.",
            "packing",
        )
