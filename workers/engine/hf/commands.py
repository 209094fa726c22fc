"""What the engine's thread is told."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass

from workers.engine.hf.lora.weights import AdapterWeights
from workers.engine.hf.pooled import PooledBatch
from workers.engine.hf.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Submit:
    """All that came in one turn of the event loop, so that they are admitted together."""

    sequences: list[Sequence]


@dataclass(frozen=True, slots=True)
class Cancel:
    key: int


@dataclass(frozen=True, slots=True)
class Load:
    weights: AdapterWeights
    done: Future[None]


@dataclass(frozen=True, slots=True)
class Unload:
    name: str
    uid: int
    done: Future[None]


@dataclass(frozen=True, slots=True)
class Stop:
    pass


Command = Submit | Cancel | Load | Unload | PooledBatch | Stop
