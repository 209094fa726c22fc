"""Whether a model keeps examples apart that are packed into one row.

Packed rows carry `position_ids` that restart at each example, from which transformers builds a
mask. Linear attention, convolutions over tokens and models with masks of their own do not look at
them, and then mix the examples without a word. So it is proved once per model, with windows
narrowed: the second of two short examples must give the same logits behind either of two first ones
as alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from workers.models.comparison import TOLERANCE, difference, probe_ids
from workers.models.evaluating import evaluating
from workers.models.narrowing import NARROWEST, narrowed

_FIRST, _SECOND = 2 * NARROWEST + 5, 2 * NARROWEST + 3
"""Tokens of the examples; together they end beside no edge of a narrow window."""

_UNMOVED = {torch.float32: 1e-4, torch.bfloat16: 0.02, torch.float16: 0.01}
"""Largest difference that a change of the first example may make to the second's logits, as a share
of their spread. The shapes stay the same, so only routing between experts may round otherwise."""

Forward = Callable[[Tensor, Tensor], Tensor]
"""Ids and positions [1, T] to logits [1, T, V]."""


@torch.no_grad()
def find_mixing(
    model: nn.Module, forward: Forward, vocab_size: int, dtype: torch.dtype
) -> str | None:
    """In words, how the model mixes packed examples; None if it keeps them apart. The model is in
    evaluation mode meanwhile."""
    device = next(model.parameters()).device
    try:
        with evaluating(model), narrowed(model):
            alone = forward(*_row(device, _ids(_SECOND, vocab_size, 2)))[0]
            behind = [
                forward(*_row(device, _ids(_FIRST, vocab_size, n), _ids(_SECOND, vocab_size, 2)))
                for n in (0, 1)
            ]
    except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError) as error:
        return f"it cannot compute a packed row ({type(error).__name__})"
    one, other = (logits[0, _FIRST:] for logits in behind)
    if not difference(one, other) <= _UNMOVED[dtype]:
        return "an example changes the logits of the one behind it"
    if not difference(alone, one) <= TOLERANCE[dtype]:
        return "an example has other logits behind another one than alone"
    return None


def _ids(length: int, vocab_size: int, offset: int) -> list[int]:
    return probe_ids(length, vocab_size, offset)


def _row(device: torch.device, *examples: list[int]) -> tuple[Tensor, Tensor]:
    ids = [token for example in examples for token in example]
    positions = [place for example in examples for place in range(len(example))]
    return torch.tensor([ids], device=device), torch.tensor([positions], device=device)
