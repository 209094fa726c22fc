"""The training loop: steps, what is reported of them, evaluations and checkpoints.

What a step calls for happens in an order that makes a kill at any point harmless: evaluation,
servable checkpoint, and last the state that the next process starts from. Whatever stands before
the state is done again with the same result, and reported once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from workers.contract.parameters import TrainingArguments
from workers.contract.training import CheckpointSaved, Evaluated, Started, Step
from workers.models.evaluating import evaluating
from workers.trainer.batches import Batch, Row
from workers.trainer.events import UNSENT, EventLog
from workers.trainer.exports import Exports
from workers.trainer.failures import StopRequested, TrainingDiverged
from workers.trainer.optimisation import Optimisation
from workers.trainer.preparation import Data
from workers.trainer.processes import Processes
from workers.trainer.schedule import Schedule
from workers.trainer.stages.stage import TrainingStage
from workers.trainer.state import Progress, StateFolder
from workers.trainer.stopping import StopRequest
from workers.trainer.tally import DeviceTally, Tally

STATE_INTERVAL_S = 300.0
"""At most so much work is lost to a kill, however far apart checkpoints are."""


@dataclass(frozen=True, slots=True)
class _StepScore:
    tally: Tally
    num_tokens: int
    grad_norm: float
    learning_rate: float


class Loop:
    def __init__(
        self,
        *,
        arguments: TrainingArguments,
        schedule: Schedule,
        stage: TrainingStage,
        data: Data,
        optimisation: Optimisation,
        log: EventLog,
        exports: Exports,
        states: StateFolder,
        stop: StopRequest,
        processes: Processes,
    ) -> None:
        self._arguments = arguments
        self._stage = stage
        self._model = stage.model
        self._data = data
        self._optimisation = optimisation
        self._log = log
        self.exports = exports
        self._states = states
        self._stop = stop
        self._processes = processes
        self.schedule = schedule
        self._epoch: tuple[int, list[list[Row]]] = (-1, [])
        self._weights = [weight for _, weight in stage.model.trainable()]
        self._last_score: Tally | None = None

    def run(self) -> Progress:
        """Trains to the end. Raises StopRequested after the state of the last step is saved."""
        progress = self._states.load(self._model, self._optimisation) or Progress()
        self._stage.restore(progress.of_stage)
        self._log.emit(
            Started(
                seq=UNSENT,
                at=UNSENT,
                total_steps=self.schedule.total_steps,
                num_examples=len(self._data.training),
                resumed_from_step=progress.step,
            )
        )
        resumed_at, first_step = time.monotonic(), progress.step
        saved_at = resumed_at
        if not progress.rounded_off:
            self._round_off(progress)
        while progress.step < self.schedule.total_steps and not self._is_over(progress):
            self._stop_here(progress)
            step_score = self._train_step(progress.step)
            progress.step += 1
            progress.trained_tokens += step_score.num_tokens
            progress.rounded_off = False
            elapsed_s = time.monotonic() - resumed_at
            remaining = self.schedule.total_steps - progress.step
            self._report(progress, step_score, elapsed_s / (progress.step - first_step) * remaining)
            self._round_off(progress)
            if time.monotonic() - saved_at > STATE_INTERVAL_S:
                self._save_state(progress)
                saved_at = time.monotonic()
        self._check_weights(progress.step)
        return progress

    def _is_over(self, progress: Progress) -> bool:
        patience = self._arguments.early_stopping_steps
        return patience is not None and progress.num_worse >= patience

    # --- a step -----------------------------------------------------------------------------------

    def _train_step(self, step: int) -> _StepScore:
        """The updates that the stage makes of the step's batches. The gradient's norm that is told
        is the last one's."""
        tally, num_tokens, grad_norm = Tally(), 0, 0.0
        learning_rate = self._learning_rate()
        for batches in self._stage.updates(self._data.training, self._rows_of(step)):
            measured, grad_norm = self._update(batches, step)
            tally.add(measured)
            num_tokens += sum(batch.num_tokens for batch in batches)
        self._optimisation.schedule.step()
        return _StepScore(tally, num_tokens, grad_norm, learning_rate)

    def _update(self, batches: Sequence[Batch], step: int) -> tuple[Tally, float]:
        """From the mean over all targets of the batches: what they measured, and the gradient's
        norm."""
        weight = self._processes.total(sum(batch.weight for batch in batches))
        scores = DeviceTally(self._model.device)
        for batch in batches:
            score = self._stage.loss(batch)
            (score.loss / weight).backward()
            scores.add(score, batch.weight)
        tally = scores.read()
        limit = self._arguments.max_grad_norm or math.inf
        grad_norm = self._processes.clip(self._weights, limit)
        for what, value in (("the loss", tally.loss), ("the gradient", grad_norm)):
            if not math.isfinite(value):
                if step == 0:
                    raise TrainingDiverged.at_first_step(what)
                raise TrainingDiverged.at(step + 1, what, self._learning_rate())
        self._processes.update(self._optimisation)
        return tally, grad_norm

    def _rows_of(self, step: int) -> list[list[Row]]:
        epoch, index = divmod(step, self.schedule.steps_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._data.plan.epoch(epoch))
        size = self.schedule.batches_per_step
        return self._epoch[1][index * size : (index + 1) * size]

    def _report(self, progress: Progress, score: _StepScore, remaining_s: float) -> None:
        tally = progress.unreported or Tally()
        tally.add(score.tally)
        progress.unreported = tally
        if not self.schedule.reports(progress.step):
            return
        progress.unreported = None
        self._last_score = tally
        if progress.step <= self._log.history.last_step:
            return
        metrics = self._metrics("train_", tally) | self._validate_batch(progress.step)
        self._log.emit(
            Step(
                seq=UNSENT,
                at=UNSENT,
                step=progress.step,
                total_steps=self.schedule.total_steps,
                metrics=metrics,
                learning_rate=score.learning_rate,
                grad_norm=score.grad_norm,
                trained_tokens=progress.trained_tokens,
                remaining_s=remaining_s,
            )
        )

    def _metrics(self, prefix: str, tally: Tally | None) -> dict[str, float]:
        """JSON has no infinity: what is not finite is left out."""
        told = {} if tally is None else self._stage.metrics(tally)
        return {f"{prefix}{name}": value for name, value in told.items() if math.isfinite(value)}

    def _validate_batch(self, step: int) -> dict[str, float]:
        """Metrics of one of the validation file's batches, each in turn."""
        if not self._data.validation:
            return {}
        batch = self._data.validation[(step - 1) % len(self._data.validation)]
        return self._metrics("valid_", self._measure([batch], lambda: None))

    def _measure(self, batches: Sequence[Batch], between: Callable[[], None]) -> Tally:
        """Scores without training. `between` may raise."""
        scores = DeviceTally(self._model.device)
        with evaluating(self._model.module), torch.no_grad():
            for batch in batches:
                between()
                scores.add(self._stage.loss(batch), batch.weight)
        return scores.read()

    # --- what a step calls for --------------------------------------------------------------------

    def _round_off(self, progress: Progress) -> None:
        """Evaluation, checkpoint and state of `progress.step`, where it calls for them."""
        step = progress.step
        full_valid = None
        try:
            if self._data.validation and self.schedule.evaluates_after(step):
                full_valid = self._evaluate(step)
        except StopRequested:
            self._save_state(progress)
            raise
        if full_valid is not None:
            progress.note(full_valid.mean_loss)
        progress.rounded_off = True
        if self.schedule.saves_after(step):
            self._check_weights(step)
            self._checkpoint(step, full_valid, progress.best_step)
        if self.schedule.saves_after(step) or step == self.schedule.total_steps:
            self._save_state(progress)

    def _check_weights(self, step: int) -> None:
        """Nothing is written that could not be served: as it would be stored, too. Raises
        TrainingDiverged."""
        stored = torch.float32 if self._model.is_adapter else self._model.export_dtype
        if not all(bool(weight.to(stored).isfinite().all()) for weight in self._weights):
            raise TrainingDiverged.at(step, "a weight", self._learning_rate())

    def _learning_rate(self) -> float:
        return float(self._optimisation.schedule.get_last_lr()[0])

    def _evaluate(self, step: int) -> Tally:
        tally = self._measure(self._data.validation, self._stop.check)
        if not math.isfinite(tally.loss):
            what = "the loss on the validation file"
            raise TrainingDiverged.at(step, what, self._learning_rate())
        if step > self._log.history.last_evaluated_step:
            self._log.emit(
                Evaluated(
                    seq=UNSENT,
                    at=UNSENT,
                    step=step,
                    metrics=self._metrics("full_valid_", tally),
                )
            )
        return tally

    def _checkpoint(self, step: int, full_valid: Tally | None, best_step: int) -> None:
        if step in self._log.history.checkpoint_steps:
            return
        path = self.exports.checkpoint(step, self._kept(best_step))
        metrics = self._metrics("train_", self._last_score)
        self._log.emit(
            CheckpointSaved(
                seq=UNSENT,
                at=UNSENT,
                step=step,
                path=str(path),
                metrics=metrics | self._metrics("full_valid_", full_valid),
            )
        )

    def _kept(self, best_step: int) -> int | None:
        """The checkpoint that the result may be, however old."""
        return best_step if self._arguments.load_best_model_at_end else None

    def _stop_here(self, progress: Progress) -> None:
        if self._stop.requested:
            self._save_state(progress)
            raise StopRequested

    def _save_state(self, progress: Progress) -> None:
        progress.of_stage = self._stage.state
        self._states.save(progress, self._model, self._optimisation)
