"""Windows and chunks of a live model made so small that a short probe crosses them.

A model with a window of 4096 behaves on 30 tokens like one without, so a mask that is left out
shows only where a real prompt is long. For a probe, and only while nothing else uses the model, its
windows become a few tokens wide, each of its own width so that they can be told apart.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from torch import nn

NARROWEST = 8
_NAMES = (
    "sliding_window",
    "sliding_window_size",
    "attention_chunk_size",
    "index_topk",
    "index_topk_blocks",
)
"""As configs and attention modules of transformers have them: what limits the tokens that one sees,
by place or by an index's choice."""


@contextmanager
def narrowed(model: nn.Module) -> Generator[dict[int, int]]:
    """Gives the model's own width of each narrow one. Restores everything."""
    wide: dict[int, int] = {}
    changed: list[tuple[Any, str, int]] = []
    try:
        for holder in _holders(model):
            for name in _NAMES:
                width = holder.__dict__.get(name)
                if isinstance(width, int) and not isinstance(width, bool) and width >= NARROWEST:
                    narrow = _narrow(width, wide)
                    if _set(holder, name, narrow):
                        changed.append((holder, name, width))
        yield wide
    finally:
        for holder, name, width in changed:
            setattr(holder, name, width)


def _holders(model: nn.Module) -> list[Any]:
    """Every module and every config in the model, each once."""
    found: dict[int, Any] = {}
    for module in model.modules():
        found[id(module)] = module
        config = getattr(module, "config", None)
        if config is not None:
            found[id(config)] = config
    return list(found.values())


def _narrow(width: int, wide: dict[int, int]) -> int:
    for narrow, known in wide.items():
        if known == width:
            return narrow
    narrow = NARROWEST + len(wide)
    wide[narrow] = width
    return narrow


def _set(holder: Any, name: str, width: int) -> bool:
    """False where the holder computes or guards the value."""
    try:
        setattr(holder, name, width)
    except (AttributeError, TypeError, ValueError):
        return False
    return True
