"""Answers that are wanted or not, each by itself: the one kind is made likelier, the other less.

An answer's ratio is compared with how far the policy has drifted from the reference. The drift is
measured on mismatched answers, each prompt with the answer of the row before it, without a
gradient, and is the mean over the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from templates.example_fields import ExampleError
from templates.examples import Example, LabelledExample
from templates.labelled import read_labelled
from templates.training import fitted_lengths
from workers.contract.parameters import MAX_COUNT
from workers.trainer.batches import Batch, Row, collate
from workers.trainer.dataset import (
    IGNORED,
    EncodedExample,
    EncodedExamples,
    EncodedRow,
    EncodedSequence,
)
from workers.trainer.stages.answers import Answers, cut_answer, prompt_len
from workers.trainer.stages.preference_losses import kto
from workers.trainer.tally import Score, Tally


class LabelledAnswers(Answers):
    _before: EncodedSequence | None = None
    """The last row of the lines that were read before. The first lines' first row is beside their
    last."""

    def read(self, line: bytes) -> Example:
        return read_labelled(line)

    def encode(self, rows: Sequence[Example], cutoff_len: int) -> list[EncodedRow]:
        labelled = [row for row in rows if isinstance(row, LabelledExample)]
        encoded = self.encoder.chats([row.conversation for row in labelled], MAX_COUNT)
        good = [each[0] for each in encoded if not isinstance(each, ExampleError)]
        before = [self._before] if self._before is not None else good[-1:]
        others = iter([*before, *good[:-1]])
        self._before = good[-1] if good else self._before
        return [
            text
            if isinstance(text, ExampleError)
            else [_example(text[0], next(others), row.is_desirable, cutoff_len)]
            for row, text in zip(labelled, encoded, strict=True)
        ]

    def prepare(self, examples: EncodedExamples, between: Callable[[], None]) -> None:
        self._measure_reference(examples, between)

    def collate(self, examples: EncodedExamples, rows: Sequence[Row]) -> Batch:
        indices = [index for row in rows for index in row]
        own, mismatched = zip(*(examples.sequences(index) for index in indices), strict=True)
        labels = torch.tensor([[examples.values[index]] for index in indices])
        references = examples.references
        known = torch.zeros(len(indices), 2) if references is None else references[indices]
        return replace(
            collate([[each] for each in own]),
            weight=len(indices),
            values=torch.cat([known, labels], 1),
            beside=collate([[each] for each in mismatched]),
        )

    def loss(self, batch: Batch) -> Score:
        assert batch.values is not None
        log_p, num_tokens = self._log_probabilities(batch)
        reference, drifted_reference, labels = batch.values.to(log_p.device).T
        is_desirable = labels > 0
        drift = (self._drifted(batch) - drifted_reference).mean().clamp(min=0)
        ratios = log_p - reference
        arguments = self._spec.finetuning
        weights = (arguments.kto_chosen_weight, arguments.kto_rejected_weight)
        losses = kto(ratios, drift, is_desirable, arguments.pref_beta, weights)
        if arguments.pref_ftx:
            losses = losses - arguments.pref_ftx * labels * log_p / num_tokens
        rewards = arguments.pref_beta * ratios.detach()
        sums = {
            "desirable": labels.sum(),
            "reward_chosen": (rewards * labels).sum(),
            "reward_rejected": (rewards * ~is_desirable).sum(),
            "kl": drift * len(labels),
        }
        return Score(losses.sum(), sums)

    def metrics(self, tally: Tally) -> dict[str, float]:
        """Rewards are means over the answers of their kind; without any, they are not told."""
        told = {"loss": tally.mean_loss, "kl": tally.mean("kl")}
        num_desirable = tally.sums.get("desirable", 0.0)
        counts = {
            "reward_chosen": num_desirable,
            "reward_rejected": tally.weight - num_desirable,
        }
        told |= {name: tally.sums[name] / count for name, count in counts.items() if count}
        if all(counts.values()):
            told["reward_margin"] = told["reward_chosen"] - told["reward_rejected"]
        return told

    def _measured(self, batch: Batch) -> Tensor:
        own, _ = self._log_probabilities(batch)
        return torch.stack([own, self._drifted(batch)], 1)

    @torch.no_grad()
    def _drifted(self, batch: Batch) -> Tensor:
        assert batch.beside is not None
        return self._log_probabilities(batch.beside)[0]


def _example(
    own: EncodedSequence, other: EncodedSequence, is_desirable: bool, cutoff_len: int
) -> EncodedExample:
    """The prompt with its answer, and with another's."""
    prompt = prompt_len(own)
    answer = other.ids[prompt_len(other) :]
    mismatched = EncodedSequence([*own.ids[:prompt], *answer], [*[IGNORED] * prompt, *answer])
    sides = (_fitted(own, cutoff_len), _fitted(mismatched, cutoff_len))
    return EncodedExample(sides, float(is_desirable))


def _fitted(sequence: EncodedSequence, cutoff_len: int) -> EncodedSequence:
    prompt = prompt_len(sequence)
    kept, _ = fitted_lengths(prompt, len(sequence.ids) - prompt, cutoff_len)
    return cut_answer(sequence, kept, cutoff_len)
