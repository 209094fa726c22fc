"""Supervised fine-tuning: the next token of every answer.

Prompts have no targets, so most of a chat's logits are never needed; `logits_to_keep` of
transformers models leaves them out. Accuracy is that of the most likely token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Self

import torch
from torch.nn import functional

from templates.example_fields import ExampleError
from templates.examples import ChatExample, CompletionExample, Example, read_example
from workers.contract.training import TrainSpec
from workers.trainer.batches import Batch, Row, collate
from workers.trainer.dataset import IGNORED, EncodedExample, EncodedExamples, EncodedRow
from workers.trainer.encoding import EncodedText, RowEncoder, load_row_encoder
from workers.trainer.exports import write_model
from workers.trainer.fitting import fitting
from workers.trainer.flat import flatten, lay_flat
from workers.trainer.forward import Forward
from workers.trainer.models import TrainedModel, load_model
from workers.trainer.stages import token_losses
from workers.trainer.tally import Score, Tally


class Supervised:
    def __init__(self, spec: TrainSpec, model: TrainedModel) -> None:
        self.model = model
        self._spec = spec
        self._forward = Forward(model)

    @classmethod
    def open(cls, spec: TrainSpec) -> Self:
        """With the model that `spec` names. Raises TrainerError."""
        return cls(spec, load_model(spec))

    @cached_property
    def encoder(self) -> RowEncoder:
        return load_row_encoder(self._spec)

    def read(self, line: bytes) -> Example:
        return read_example(line)

    def encode(self, rows: Sequence[Example], cutoff_len: int) -> list[EncodedRow]:
        chats = [row.conversation for row in rows if isinstance(row, ChatExample)]
        encoded = iter(self.encoder.chats(chats, cutoff_len))
        return [
            one_each([self.encoder.completion(row, cutoff_len)])
            if isinstance(row, CompletionExample)
            else one_each(next(encoded))
            for row in rows
        ]

    def prepare(self, examples: EncodedExamples, between: Callable[[], None]) -> None:
        pass

    def updates(
        self, examples: EncodedExamples, batches: Sequence[Sequence[Row]]
    ) -> Iterable[Sequence[Batch]]:
        """One, from the mean over all targets."""
        yield [
            self.collate(examples, part)
            for rows in batches
            for part in fitting(rows, examples.lengths)
        ]

    @property
    def state(self) -> dict[str, float]:
        return {}

    def restore(self, state: dict[str, float]) -> None:
        pass

    def collate(self, examples: EncodedExamples, rows: Sequence[Row]) -> Batch:
        lines = [[examples.sequences(index)[0] for index in row] for row in rows]
        if self._is_flat:
            return flatten([sequence for line in lines for sequence in line])
        return collate(lines)

    @cached_property
    def _is_flat(self) -> bool:
        """Noise on embeddings is scaled by a row's length, so rows stay as they are with it."""
        return self._spec.training.neftune_noise_alpha is None and lay_flat(self.model)

    def loss(self, batch: Batch) -> Score:
        logits = self._forward.logits(batch).flatten(0, 1)
        targets = batch.targets.to(self.model.device).flatten()
        loss = self._sum(batch, logits, targets)
        with torch.no_grad():
            correct = (logits.argmax(-1) == targets).sum()
        return Score(loss, {"correct": correct})

    def _sum(self, batch: Batch, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Of the losses of all targets, by the loss that the run names."""
        chosen = self._spec.finetuning
        if not (chosen.use_dft_loss or chosen.use_asft_loss or chosen.use_eaft_loss):
            return functional.cross_entropy(
                logits.float(), targets, ignore_index=IGNORED, reduction="sum"
            )
        kept = targets != IGNORED
        logits, targets = logits[kept], targets[kept]
        if chosen.use_dft_loss:
            return token_losses.dft(logits, targets).sum()
        if chosen.use_eaft_loss:
            return token_losses.eaft(logits, targets, chosen.eaft_alpha).sum()
        reference = self._forward.base_logits(batch).flatten(0, 1)[kept]
        return token_losses.asft(logits, targets, reference, chosen.asft_alpha).sum()

    def metrics(self, tally: Tally) -> dict[str, float]:
        return {"loss": tally.mean_loss, "mean_token_accuracy": tally.mean("correct")}

    def export(self, folder: Path) -> None:
        write_model(self.model, folder)


def one_each(sequences: EncodedText) -> EncodedRow:
    """An example of every sequence."""
    if isinstance(sequences, ExampleError):
        return sequences
    return [EncodedExample((sequence,)) for sequence in sequences]
