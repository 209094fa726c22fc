"""What the loop does with all processes of a run together: they hold the model, and each has its
share of every batch. Here there is one process.

Another implementation wraps the model for several (DDP, FSDP), adds counts up over ranks, and saves
and loads what each rank holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from workers.trainer.models import TrainedModel
from workers.trainer.optimisation import Optimisation


class Processes(Protocol):
    def wrap(self, model: TrainedModel) -> None:
        """In its place, before an optimiser is made of its weights."""
        ...

    def total(self, count: int) -> int:
        """Over all ranks: what the loss of a step is divided by."""
        ...

    def clip(self, weights: Sequence[torch.nn.Parameter], limit: float) -> float:
        """The norm of the whole gradient as it was. One that is not finite is clipped to no
        number."""
        ...

    def update(self, optimisation: Optimisation) -> None:
        """Moves the weights and drops their gradients."""
        ...

    def save(
        self, path: Path, model: TrainedModel, optimisation: Optimisation, told: Mapping[str, Any]
    ) -> None:
        """`told` is what the run itself keeps beside weights, optimiser and generators."""
        ...

    def load(
        self, content: Mapping[str, Any], model: TrainedModel, optimisation: Optimisation
    ) -> None:
        """Puts what was saved into `model` and `optimisation`."""
        ...


class OneProcess:
    def wrap(self, model: TrainedModel) -> None:
        pass

    def total(self, count: int) -> int:
        return count

    def clip(self, weights: Sequence[torch.nn.Parameter], limit: float) -> float:
        return float(torch.nn.utils.clip_grad_norm_(weights, limit))

    def update(self, optimisation: Optimisation) -> None:
        optimisation.optimiser.step()
        optimisation.optimiser.zero_grad(set_to_none=True)

    def save(
        self, path: Path, model: TrainedModel, optimisation: Optimisation, told: Mapping[str, Any]
    ) -> None:
        content = {
            **told,
            "weights": {name: weight.detach() for name, weight in model.trainable()},
            "optimiser": optimisation.optimiser.state_dict(),
            "schedule": optimisation.schedule.state_dict(),
            "cpu_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if model.device.type == "cuda" else [],
        }
        torch.save(content, path)

    def load(
        self, content: Mapping[str, Any], model: TrainedModel, optimisation: Optimisation
    ) -> None:
        with torch.no_grad():
            for name, weight in model.trainable():
                weight.copy_(content["weights"][name])
        optimisation.optimiser.load_state_dict(content["optimiser"])
        optimisation.schedule.load_state_dict(content["schedule"])
        torch.set_rng_state(content["cpu_rng"])
        if model.device.type == "cuda":
            torch.cuda.set_rng_state_all(content["cuda_rng"])
