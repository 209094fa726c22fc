"""How many steps a run has, and what happens after which."""

from __future__ import annotations

import math
from dataclasses import dataclass

from workers.contract.parameters import TrainingArguments


@dataclass(frozen=True, slots=True)
class Schedule:
    steps_per_epoch: int
    total_steps: int
    eval_steps: int | None
    """0: each epoch; None: never."""
    save_steps: int | None
    logging_steps: int
    batches_per_step: int

    @classmethod
    def of(cls, arguments: TrainingArguments, num_batches: int, batches_per_step: int) -> Schedule:
        per_epoch = math.ceil(num_batches / batches_per_step)
        by_epochs = max(math.ceil(per_epoch * arguments.num_train_epochs), 1)
        return cls(
            steps_per_epoch=per_epoch,
            total_steps=by_epochs if arguments.max_steps is None else arguments.max_steps,
            eval_steps=None if arguments.eval_strategy == "no" else arguments.eval_steps,
            save_steps=None if arguments.save_strategy == "no" else arguments.save_steps,
            logging_steps=arguments.logging_steps,
            batches_per_step=batches_per_step,
        )

    def evaluates_after(self, step: int) -> bool:
        return self._falls_on(step, self.eval_steps)

    def saves_after(self, step: int) -> bool:
        return self._falls_on(step, self.save_steps)

    def reports(self, step: int) -> bool:
        return step % self.logging_steps == 0 or step == self.total_steps

    def _falls_on(self, step: int, every: int | None) -> bool:
        if every is None:
            return False
        return step % (every or self.steps_per_epoch) == 0 or step == self.total_steps
