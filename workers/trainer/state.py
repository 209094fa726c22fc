"""What a run needs to go on as if it had never stopped.

Kept apart from the servable checkpoints, in `state/step-N.pt`, only the newest: so a run that is
stopped and resumed makes the same checkpoints as one that is not. The step number is the whole
data position, since batches follow from seed and epoch.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from workers.contract.parameters import parameters
from workers.trainer.failures import TrainerError
from workers.trainer.models import TrainedModel
from workers.trainer.optimisation import Optimisation
from workers.trainer.placing import remove_partials
from workers.trainer.processes import Processes
from workers.trainer.room import Room
from workers.trainer.tally import Tally

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Progress:
    """Where the run stands. `rounded_off` tells that the evaluation and checkpoint that `step`
    calls for are done."""

    step: int = 0
    trained_tokens: int = 0
    rounded_off: bool = True
    unreported: Tally | None = None
    """Steps since the last reported one."""
    lowest_loss: float = math.inf
    """Of all evaluations, at `best_step`."""
    best_step: int = 0
    num_worse: int = 0
    """Evaluations since then."""
    of_stage: dict[str, float] = field(default_factory=dict[str, float])
    """What the stage keeps from step to step."""

    def note(self, loss: float) -> None:
        """What the evaluation at `step` gave."""
        if loss < self.lowest_loss:
            self.lowest_loss, self.best_step, self.num_worse = loss, self.step, 0
        else:
            self.num_worse += 1


class StateFolder:
    """`fingerprint` names what must be the same for a state to be taken up."""

    def __init__(
        self, folder: Path, fingerprint: Mapping[str, str], room: Room, processes: Processes
    ) -> None:
        self._folder = folder
        self._fingerprint = dict(fingerprint)
        self._room = room
        self._processes = processes
        room.insist(folder.parent, lambda: folder.mkdir(parents=True, exist_ok=True))
        remove_partials(folder)

    def save(self, progress: Progress, model: TrainedModel, optimisation: Optimisation) -> None:
        told = {"fingerprint": self._fingerprint, "progress": asdict(progress)}
        target = self._folder / f"step-{progress.step}.pt"
        self._room.place(
            target, lambda partial: self._processes.save(partial, model, optimisation, told)
        )
        for older in self._folder.glob("step-*.pt"):
            if older != target:
                older.unlink()

    def load(self, model: TrainedModel, optimisation: Optimisation) -> Progress | None:
        """Puts the newest state into `model` and `optimisation`; None without one."""
        newest = max(self._folder.glob("step-*.pt"), key=_step_of, default=None)
        if newest is None:
            return None
        content: dict[str, Any] = torch.load(newest, map_location="cpu", weights_only=True)
        self._check(content["fingerprint"])
        self._processes.load(content, model, optimisation)
        progress = Progress(**content["progress"])
        if isinstance(progress.unreported, dict):
            progress.unreported = Tally(**progress.unreported)
        return progress

    def _check(self, found: dict[str, str]) -> None:
        """An argument that the state's trainer did not know had its default then."""
        unknown = {name: str(each.default) for name, each in parameters().items()}
        changed = sorted(
            name
            for name in self._fingerprint.keys() | found.keys()
            if self._fingerprint.get(name) != found.get(name, unknown.get(name))
        )
        if changed:
            _log.error("state of other arguments: %s", ", ".join(changed))
            raise TrainerError(
                f"The run cannot be resumed: its {', '.join(changed)} changed since it was saved."
            )


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))
