"""Preferences: of two answers to one prompt, the chosen one is made likelier than the rejected."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

from torch import Tensor

from templates.example_fields import ExampleError
from templates.examples import Example, PreferenceExample
from templates.preferences import read_preference
from templates.training import fitted_lengths
from workers.contract.parameters import MAX_COUNT, FinetuningArguments
from workers.trainer.batches import Batch, Row, collate
from workers.trainer.dataset import EncodedExample, EncodedExamples, EncodedRow
from workers.trainer.encoding import EncodedText
from workers.trainer.stages import preference_losses
from workers.trainer.stages.answers import Answers, cut_answer, prompt_len
from workers.trainer.tally import Score, Tally

PAIR_METRICS = ("reward_accuracy", "reward_margin", "reward_chosen", "reward_rejected")


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


class Pairs(Answers):
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
        if self._objective.has_reference:
            self._measure_reference(examples, between)

    def collate(self, examples: EncodedExamples, rows: Sequence[Row]) -> Batch:
        """All chosen answers, then all rejected ones."""
        indices = [index for row in rows for index in row]
        pairs = [examples.sequences(index) for index in indices]
        batch = collate([[pair[side]] for side in (0, 1) for pair in pairs])
        references = examples.references
        values = None if references is None else references[indices]
        return replace(batch, weight=len(pairs), values=values)

    def loss(self, batch: Batch) -> Score:
        log_p, num_tokens = (each.view(2, -1) for each in self._log_probabilities(batch))
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
        return Score(losses.sum(), pair_sums(beta * chosen, beta * rejected))

    def metrics(self, tally: Tally) -> dict[str, float]:
        return {"loss": tally.mean_loss} | {name: tally.mean(name) for name in PAIR_METRICS}

    def _measured(self, batch: Batch) -> Tensor:
        return self._log_probabilities(batch)[0].view(2, -1).T


def pair_sums(chosen: Tensor, rejected: Tensor) -> dict[str, Tensor]:
    """What is reported of pairs' rewards, summed, by `PAIR_METRICS`."""
    chosen, rejected = chosen.detach(), rejected.detach()
    margins = chosen - rejected
    measured = (margins > 0, margins, chosen, rejected)
    return {name: each.sum() for name, each in zip(PAIR_METRICS, measured, strict=True)}


def _fitted(chosen: EncodedText, rejected: EncodedText, cutoff_len: int) -> EncodedRow:
    """Both behind the same prompt, which leaves room for the longer answer as far as it can."""
    if isinstance(chosen, ExampleError):
        return chosen
    if isinstance(rejected, ExampleError):
        return rejected
    sides = (chosen[0], rejected[0])
    prompts = [prompt_len(side) for side in sides]
    longest = max(len(side.ids) - prompt for side, prompt in zip(sides, prompts, strict=True))
    kept, _ = fitted_lengths(max(prompts), longest, cutoff_len)
    return [EncodedExample(tuple(cut_answer(side, kept, cutoff_len) for side in sides))]
