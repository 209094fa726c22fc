"""The seam between the loop and a way of training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from templates.examples import Example
from workers.trainer.batches import Batch, Row
from workers.trainer.dataset import EncodedExamples, EncodedRow
from workers.trainer.models import TrainedModel
from workers.trainer.tally import Score, Tally


class TrainingStage(Protocol):
    """What a way of training is: its rows, their sequences, its loss, what it reports, and what it
    leaves. The loop counts, clips, steps, reports and saves."""

    @property
    def model(self) -> TrainedModel: ...

    def read(self, line: bytes) -> Example:
        """A line of a training file. Raises ExampleError."""
        ...

    def encode(self, rows: Sequence[Example], cutoff_len: int) -> list[EncodedRow]:
        """Many rows at once, which is faster; the error of one does not hold up the others."""
        ...

    def prepare(self, examples: EncodedExamples, between: Callable[[], None]) -> None:
        """Measures, before the first step, what does not change by training, and keeps it with the
        examples. `between` passes may raise."""
        ...

    def updates(
        self, examples: EncodedExamples, batches: Sequence[Sequence[Row]]
    ) -> Iterable[Sequence[Batch]]:
        """The updates of a step that is made of `batches`: the batches of each, one update after
        the other."""
        ...

    def collate(self, examples: EncodedExamples, rows: Sequence[Row]) -> Batch:
        """Tensors of a batch, and the weight that its loss is divided by."""
        ...

    def loss(self, batch: Batch) -> Score:
        """Sums over the batch: the loss, and what `metrics` tells of."""
        ...

    @property
    def state(self) -> dict[str, float]:
        """What changes from step to step beside weights, and is saved with them."""
        ...

    def restore(self, state: dict[str, float]) -> None: ...

    def metrics(self, tally: Tally) -> dict[str, float]:
        """What is reported of `tally`, by names that go behind `train_`, `valid_` and
        `full_valid_`."""
        ...

    def export(self, folder: Path) -> None:
        """Writes what can be served into `folder`, which is empty."""
        ...
