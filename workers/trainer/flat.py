"""Batches without padding: sequences behind each other in one row, each attended to alone.

Nothing is computed for padding, nor behind a sequence's last target, and logits are those of the
targets alone. Attention passes over one sequence after another, which on a CPU costs nothing and
spares the mask of the whole row; on a GPU it would cost a launch each, so batches are padded there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from workers.models.comparison import TOLERANCE, difference, probe_ids
from workers.models.evaluating import evaluating
from workers.models.narrowing import NARROWEST, narrowed
from workers.trainer.batches import Batch
from workers.trainer.dataset import IGNORED, Sequence32
from workers.trainer.models import TrainedModel

_NAME = "tuneyard_flat"
_PLAIN = "sdpa"
_FIRST, _SECOND = 2 * NARROWEST + 5, 2 * NARROWEST + 3
"""Tokens of the proof's sequences."""


def attend_each(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    *,
    sequence_lengths: tuple[int, ...],
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each sequence of one row. [1, heads, T, width] to [1, T, heads,
    width]; the lengths add up to T."""
    parts = (each.split(sequence_lengths, dim=2) for each in (query, key, value))
    attended = [
        sdpa_attention_forward(module, q, k, v, None, dropout=dropout, scaling=scaling)[0]
        for q, k, v in zip(*parts, strict=True)
    ]
    return torch.cat(attended, dim=1), None


def _no_mask(*_: Any, **__: Any) -> None:
    return None


ALL_ATTENTION_FUNCTIONS.register(_NAME, attend_each)
ALL_MASK_ATTENTION_FUNCTIONS.register(_NAME, _no_mask)


def flatten(sequences: Sequence[Sequence32]) -> Batch:
    """A batch of one row. Each sequence ends at the last of its tokens that predicts a target."""
    kept = [(tokens, labels, _num_kept(labels)) for tokens, labels in sequences]
    lengths = tuple(length for _, _, length in kept)
    ids = np.concatenate([tokens[:length] for tokens, _, length in kept])
    targets = np.concatenate([labels[1 : length + 1] for _, labels, length in kept])
    scored = np.flatnonzero(targets != IGNORED)
    return Batch(
        input_ids=torch.from_numpy(ids.astype(np.int64))[None],
        targets=torch.from_numpy(targets[scored].astype(np.int64))[None],
        scored_columns=torch.from_numpy(scored),
        position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
        weight=len(scored),
        num_tokens=sum(len(tokens) for tokens, _ in sequences),
        lengths=lengths,
    )


def _num_kept(labels: np.ndarray[Any, Any]) -> int:
    return int(np.flatnonzero(labels[1:] != IGNORED)[-1]) + 1


def lay_flat(model: TrainedModel) -> bool:
    """Has the model attend to each sequence alone, from here on, where that is proved to give its
    own logits; whether it does. Its windows, chunks and recurrences are not in `attend_each`."""
    causal_lm = model.causal_lm
    if model.device.type != "cpu" or causal_lm.config._attn_implementation != _PLAIN:
        return False
    if not _gives_own_logits(model):
        causal_lm.set_attn_implementation(_PLAIN)
        return False
    return True


@torch.no_grad()
def _gives_own_logits(model: TrainedModel) -> bool:
    """Compares a sequence behind another one with the same as the stock model has it alone.
    Leaves the model attending to each sequence alone."""
    vocab_size: int = model.causal_lm.config.get_text_config().vocab_size
    first, second = probe_ids(_FIRST, vocab_size), probe_ids(_SECOND, vocab_size, 1)
    positions = [*range(_FIRST), *range(_SECOND)]
    try:
        with evaluating(model.module), narrowed(model.module), model.autocast():
            alone = _logits(model, second)
            model.causal_lm.set_attn_implementation(_NAME)
            behind = _logits(
                model,
                [*first, *second],
                position_ids=torch.tensor([positions]),
                sequence_lengths=(_FIRST, _SECOND),
            )
    except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError):
        return False
    return difference(alone, behind[_FIRST:]) <= TOLERANCE[model.compute_dtype]


def _logits(model: TrainedModel, ids: list[int], **inputs: Any) -> Tensor:
    """[T, vocabulary]"""
    return model.module(input_ids=torch.tensor([ids]), use_cache=False, **inputs).logits[0]
