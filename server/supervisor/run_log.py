"""A trainer's event file, read while it grows, and what its events mean for the job.

Every event has a number that rises over the whole run, restarts included; what is recorded already
is skipped, so reading from the start again is always right.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from server.store.records import EventLevel, NewEvent
from workers.contract.training import (
    CheckpointSaved,
    Completed,
    Evaluated,
    Heartbeat,
    Started,
    Step,
    TrainEvent,
    TrainFailed,
    Warned,
)

_TOLD = {
    "train_loss": "training loss",
    "valid_loss": "validation loss",
    "full_valid_loss": "full validation loss",
}
"""What a step's message says, in OpenAI's words."""
_decoder = msgspec.json.Decoder(TrainEvent)
_CSV_METRICS = (
    "train_loss",
    "train_mean_token_accuracy",
    "valid_loss",
    "valid_mean_token_accuracy",
)
"""The columns of OpenAI's result files; what else a stage measures comes behind them."""
_CSV_NAMES = {"train_mean_token_accuracy": "train_accuracy"}


def _decode(line: bytes) -> TrainEvent | None:
    """None for a line that a kill cut short: the trainer numbers the next one as if it were not
    there."""
    try:
        return _decoder.decode(line)
    except msgspec.MsgspecError:
        return None


class RunLogReader:
    """Gives the events of complete lines, each once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest = b""

    def read(self) -> list[TrainEvent]:
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        events = (_decode(line) for line in lines if line)
        return [event for event in events if event is not None]

    def changed_at(self) -> float:
        try:
            return self._path.stat().st_mtime
        except FileNotFoundError:
            return 0.0


class RunFold:
    """Collects events until they are recorded. The numbers of a whole pass over the validation
    file come after their step; the step waits for them, to be told in one event."""

    def __init__(self, after_seq: int, has_validation: bool) -> None:
        self._after_seq = after_seq
        self._has_validation = has_validation
        self._pending: list[TrainEvent] = []
        self.completed: Completed | None = None
        self.failed: TrainFailed | None = None

    def add(self, events: Sequence[TrainEvent]) -> None:
        for event in events:
            if isinstance(event, Started):
                self.failed = None
            elif isinstance(event, Completed):
                self.completed = event
            elif isinstance(event, TrainFailed):
                self.failed = event
            if event.seq > self._after_seq:
                self._pending.append(event)

    def take(self, ended: bool) -> list[TrainEvent]:
        """The events to record now; with `ended`, no more will come."""
        events: list[TrainEvent] = [e for e in self._pending if not isinstance(e, Heartbeat)]
        held: list[TrainEvent] = []
        if self._has_validation and not ended and events and isinstance(events[-1], Step):
            held = [events.pop()]
        self._pending = held
        return events

    def recorded(self, last_seq: int) -> None:
        self._after_seq = max(self._after_seq, last_seq)


def events_of(events: Sequence[TrainEvent]) -> Iterator[NewEvent]:
    """The job's events for a run of trainer events, in OpenAI's words."""
    evaluated = {event.step: event for event in events if isinstance(event, Evaluated)}
    told: set[int] = set()
    for event in events:
        match event:
            case Step():
                told.add(event.step)
                yield _metrics_event(event, evaluated.get(event.step))
            case Evaluated() if event.step not in told:
                yield _evaluation_event(event)
            case CheckpointSaved():
                yield NewEvent(f"Checkpoint created at step {event.step}", created_at=int(event.at))
            case Warned():
                yield NewEvent(event.message, EventLevel.WARN, created_at=int(event.at))
            case _:
                pass


def _metrics_event(step: Step, evaluated: Evaluated | None) -> NewEvent:
    metrics = step.metrics | ({} if evaluated is None else evaluated.metrics)
    data = {"step": step.step, "total_steps": step.total_steps, **metrics}
    told = [f"{words}={metrics[name]:.2f}" for name, words in _TOLD.items() if name in metrics]
    message = f"Step {step.step}/{step.total_steps}: {', '.join(told)}"
    return NewEvent(message, data=data, created_at=int(step.at))


def _evaluation_event(event: Evaluated) -> NewEvent:
    loss = event.metrics["full_valid_loss"]
    message = f"Step {event.step}: {_TOLD['full_valid_loss']}={loss:.2f}"
    data = {"step": event.step, **event.metrics}
    return NewEvent(message, data=data, created_at=int(event.at))


def checkpoint_metrics(event: CheckpointSaved, step: Step | None) -> dict[str, Any]:
    """Of the checkpoint itself where it tells, else of its step."""
    metrics = ({} if step is None else step.metrics) | event.metrics
    return {"step": event.step, **metrics}


def estimated_finish(events: Sequence[TrainEvent]) -> int | None:
    for event in reversed(events):
        if isinstance(event, Step):
            return math.ceil(event.at + event.remaining_s)
    return None


def step_metrics_csv(path: Path) -> bytes:
    """The result file. A step trained twice, because its trainer was killed in between, is told as
    it was the last time."""
    steps = {event.step: event for event in RunLogReader(path).read() if isinstance(event, Step)}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = list(dict.fromkeys([*_CSV_METRICS, *(n for s in steps.values() for n in s.metrics)]))
    writer.writerow(["step", *(_CSV_NAMES.get(name, name) for name in names)])
    for number in sorted(steps):
        metrics = steps[number].metrics
        cells = [f"{metrics[name]:.5f}" if name in metrics else "" for name in names]
        writer.writerow([number, *cells])
    return text.getvalue().encode()
