"""What stages share that learn from whole answers: the last of a conversation, its log-probability,
and that by the reference.

The reference is the model as the run starts from it, whatever is trained of it: its
log-probabilities are measured once, before the first step, and kept with the examples. A run that
resumes measures them again, from the same weights in the same batches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from workers.models.evaluating import evaluating
from workers.trainer.batches import Batch
from workers.trainer.dataset import IGNORED, EncodedExamples, EncodedSequence
from workers.trainer.encoding import RowEncoder, load_row_encoder
from workers.trainer.fitting import fitting
from workers.trainer.stages.sft import Supervised

_EXAMPLES_AT_ONCE = 8
"""When the reference is measured."""


class Answers(Supervised, ABC):
    @cached_property
    def encoder(self) -> RowEncoder:
        return load_row_encoder(self._spec, last_turn_only=True)

    @abstractmethod
    def _measured(self, batch: Batch) -> Tensor:
        """[examples, sequences] log-probabilities."""

    def _measure_reference(self, examples: EncodedExamples, between: Callable[[], None]) -> None:
        references = torch.empty(len(examples), examples.num_each)
        with evaluating(self.model.module), torch.no_grad():
            for rows in _in_batches(examples):
                between()
                measured = self._measured(self.collate(examples, rows))
                references[[index for (index,) in rows]] = measured.cpu()
        examples.references = references

    def _log_probabilities(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """[rows] of each row's targets together, and the numbers of these."""
        logits = self._forward.logits(batch)
        targets = batch.targets.to(self.model.device)
        losses = functional.cross_entropy(
            logits.flatten(0, 1).float(),
            targets.flatten(),
            ignore_index=IGNORED,
            reduction="none",
        ).view_as(targets)
        return -losses.sum(1), (targets != IGNORED).sum(1)


def _in_batches(examples: EncodedExamples) -> Iterator[Sequence[tuple[int]]]:
    """Every example once, the short ones first."""
    order = sorted(range(len(examples)), key=examples.lengths.__getitem__)
    for at in range(0, len(order), _EXAMPLES_AT_ONCE):
        rows = [(index,) for index in order[at : at + _EXAMPLES_AT_ONCE]]
        yield from fitting(rows, examples.lengths)


def prompt_len(sequence: EncodedSequence) -> int:
    """What stands before the answer."""
    return next(
        (at for at, label in enumerate(sequence.labels) if label != IGNORED), len(sequence.ids)
    )


def cut_answer(sequence: EncodedSequence, kept_prompt: int, cutoff_len: int) -> EncodedSequence:
    """The prompt's and the answer's beginnings."""
    start = prompt_len(sequence)
    kept = min(start, kept_prompt)
    end = start + cutoff_len - kept
    ids = [*sequence.ids[:kept], *sequence.ids[start:end]]
    labels = [*sequence.labels[:kept], *sequence.labels[start:end]]
    return EncodedSequence(ids, labels, is_truncated=len(ids) < len(sequence.ids))
