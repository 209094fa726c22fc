"""Preferences: of two answers to one prompt, the chosen one is made likelier than the rejected.

The reference is the model as the run starts from it, whatever is trained of it: its
log-probabilities are measured once, before the first step, and kept with the examples. A run that
resumes measures them again, from the same weights in the same batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor
from torch.nn import functional

from templates.example_fields import ExampleError
from templates.examples import Example, PreferenceExample
from templates.preferences import read_preference
from templates.training import fitted_lengths
from workers.contract.parameters import MAX_COUNT, FinetuningArguments
from workers.trainer.batches import Batch, Row, collate
from workers.trainer.dataset import (
    IGNORED,
    EncodedExample,
    EncodedExamples,
    EncodedRow,
    EncodedSequence,
)
from workers.trainer.encoding import EncodedText, RowEncoder, load_row_encoder
from workers.trainer.preparation import fitting
from workers.trainer.stages import preference_losses
from workers.trainer.stages.sft import Supervised
from workers.trainer.tally import Score, Tally

_PAIRS_AT_ONCE = 8
"""When the reference is measured."""
_METRICS = ("reward_accuracy", "reward_margin", "reward_chosen", "reward_rejected")


@dataclass(frozen=True, slots=True)
class Objective:
    """A loss of the chosen and the rejected answers' log-probabilities, less the reference's where
    it has one."""

    loss: Callable[[Tensor, Tensor, float], Tensor]
    has_reference: bool = True
    is_per_token: bool = False
    """Whether log-probabilities are means over an answer's tokens, not sums."""


def objective_of(arguments: FinetuningArguments) -> Objective:
    losses = preference_losses
    match arguments.pref_loss:
        case "sigmoid":
            return Objective(partial(losses.sigmoid, smoothing=arguments.dpo_label_smoothing))
        case "hinge":
            return Objective(losses.hinge)
        case "ipo":
            return Objective(losses.ipo, is_per_token=True)
        case "kto_pair":
            return Objective(losses.kto_pair)
        case "orpo":
            return Objective(losses.orpo, has_reference=False, is_per_token=True)
        case "simpo":
            simpo = partial(losses.simpo, gamma=arguments.simpo_gamma)
            return Objective(simpo, has_reference=False, is_per_token=True)


class Pairs(Supervised):
    @cached_property
    def encoder(self) -> RowEncoder:
        return load_row_encoder(self._spec, last_turn_only=True)

    @cached_property
    def _objective(self) -> Objective:
        return objective_of(self._spec.finetuning)

    def read(self, line: bytes) -> Example:
        return read_preference(line)

    def encode(self, rows: Sequence[Example], cutoff_len: int) -> list[EncodedRow]:
        pairs = [row for row in rows if isinstance(row, PreferenceExample)]
        encoded = self.encoder.chats([c for pair in pairs for c in pair.conversations], MAX_COUNT)
        sides = zip(encoded[::2], encoded[1::2], strict=True)
        return [_fitted(chosen, rejected, cutoff_len) for chosen, rejected in sides]

    def prepare(self, examples: EncodedExamples, between: Callable[[], None]) -> None:
        if not self._objective.has_reference:
            return
        references = torch.empty(len(examples), 2)
        self.model.module.eval()
        try:
            with torch.no_grad():
                for rows in self._in_batches(examples):
                    between()
                    log_p, _ = self._log_probabilities(self.collate(examples, rows))
                    references[[index for (index,) in rows]] = log_p.T.cpu()
        finally:
            self.model.module.train()
        examples.references = references

    def collate(self, examples: EncodedExamples, rows: Sequence[Row]) -> Batch:
        """All chosen answers, then all rejected ones."""
        indices = [index for row in rows for index in row]
        pairs = [examples.sequences(index) for index in indices]
        batch = collate([[pair[side]] for side in (0, 1) for pair in pairs])
        references = examples.references
        values = None if references is None else references[indices]
        return replace(batch, weight=len(pairs), values=values)

    def loss(self, batch: Batch) -> Score:
        log_p, num_tokens = self._log_probabilities(batch)
        scored = log_p
        if batch.values is not None:
            scored = log_p - batch.values.to(log_p.device).T
        if self._objective.is_per_token:
            scored = scored / num_tokens
        chosen, rejected = scored
        arguments = self._spec.finetuning
        beta = arguments.pref_beta
        losses = self._objective.loss(chosen, rejected, beta)
        if arguments.pref_ftx:
            losses = losses - arguments.pref_ftx * log_p[0] / num_tokens[0]
        margins = beta * (chosen - rejected).detach()
        measured = (margins > 0, margins, beta * chosen.detach(), beta * rejected.detach())
        sums = {name: each.sum() for name, each in zip(_METRICS, measured, strict=True)}
        return Score(losses.sum(), sums)

    def metrics(self, tally: Tally) -> dict[str, float]:
        return {"loss": tally.mean_loss} | {name: tally.mean(name) for name in _METRICS}

    def _in_batches(self, examples: EncodedExamples) -> Iterator[Sequence[tuple[int]]]:
        """Every example once, the short ones first."""
        order = sorted(range(len(examples)), key=examples.lengths.__getitem__)
        for at in range(0, len(order), _PAIRS_AT_ONCE):
            rows = [(index,) for index in order[at : at + _PAIRS_AT_ONCE]]
            yield from fitting(rows, examples.lengths)

    def _log_probabilities(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """[2, pairs] of each chosen and each rejected answer, and the numbers of their tokens."""
        logits = self._forward.logits(batch)
        targets = batch.targets.to(self.model.device)
        losses = functional.cross_entropy(
            logits.flatten(0, 1).float(),
            targets.flatten(),
            ignore_index=IGNORED,
            reduction="none",
        ).view_as(targets)
        num_tokens = (targets != IGNORED).sum(1)
        return -losses.sum(1).view(2, -1), num_tokens.view(2, -1)


def _fitted(chosen: EncodedText, rejected: EncodedText, cutoff_len: int) -> EncodedRow:
    """Both behind the same prompt, which leaves room for the longer answer as far as it can."""
    if isinstance(chosen, ExampleError):
        return chosen
    if isinstance(rejected, ExampleError):
        return rejected
    sides = (chosen[0], rejected[0])
    prompts = [_prompt_len(side) for side in sides]
    longest = max(len(side.ids) - prompt for side, prompt in zip(sides, prompts, strict=True))
    kept, _ = fitted_lengths(max(prompts), longest, cutoff_len)
    return [
        EncodedExample(
            tuple(
                _cut(side, prompt, min(prompt, kept), cutoff_len)
                for side, prompt in zip(sides, prompts, strict=True)
            )
        )
    ]


def _prompt_len(sequence: EncodedSequence) -> int:
    return next(
        (at for at, label in enumerate(sequence.labels) if label != IGNORED), len(sequence.ids)
    )


def _cut(
    sequence: EncodedSequence, prompt_len: int, kept_prompt: int, cutoff_len: int
) -> EncodedSequence:
    """The prompt's and the answer's beginnings."""
    end = prompt_len + cutoff_len - kept_prompt
    ids = [*sequence.ids[:kept_prompt], *sequence.ids[prompt_len:end]]
    labels = [*sequence.labels[:kept_prompt], *sequence.labels[prompt_len:end]]
    return EncodedSequence(ids, labels, is_truncated=len(ids) < len(sequence.ids))
