"""Sums of what batches measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True, slots=True)
class Score:
    """Sums over a batch, still on the device; `loss` carries the graph."""

    loss: torch.Tensor
    sums: Mapping[str, torch.Tensor] = field(default_factory=dict[str, torch.Tensor])
    """What else the stage measures, by its own names."""


@dataclass(slots=True)
class Tally:
    """Sums over batches, and how many targets or examples they are over."""

    loss: float = 0.0
    weight: int = 0
    sums: dict[str, float] = field(default_factory=dict[str, float])

    def add(self, other: Tally) -> None:
        self.loss += other.loss
        self.weight += other.weight
        for name, value in other.sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def mean(self, name: str) -> float:
        return self.sums.get(name, 0.0) / max(self.weight, 1)

    @property
    def mean_loss(self) -> float:
        return self.loss / max(self.weight, 1)


class DeviceTally:
    """Adds scores up on the device, so that no batch waits for the one before it."""

    def __init__(self, device: torch.device) -> None:
        self._loss = torch.zeros((), device=device)
        self._sums: dict[str, torch.Tensor] = {}
        self._weight = 0

    def add(self, score: Score, weight: int) -> None:
        self._loss += score.loss.detach()
        self._weight += weight
        for name, value in score.sums.items():
            held = self._sums.get(name)
            self._sums[name] = value.detach() if held is None else held + value.detach()

    def read(self) -> Tally:
        sums = {name: float(value) for name, value in self._sums.items()}
        return Tally(float(self._loss), self._weight, sums)
