"""Answers of the model's own, made likelier or less as a reward model scores them (PPO).

A step answers the prompts of its batches, scores the answers, measures each token's probability by
the policy and the reference and its value by a head on the policy's last hidden state; then it
passes over the answers `ppo_epochs` times, an update from each of `ppo_buffer_size` parts. Of a row
the answer is dropped. Probabilities are those at temperature 1, however answers are drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from templates.examples import Example
from workers.contract.parameters import MAX_COUNT
from workers.contract.training import TrainSpec
from workers.models.evaluating import evaluating
from workers.trainer.batches import Batch, Row, collate
from workers.trainer.dataset import (
    IGNORED,
    EncodedExample,
    EncodedExamples,
    EncodedRow,
    EncodedSequence,
    Sequence32,
)
from workers.trainer.encoding import RowEncoder, load_row_encoder, same_tokens
from workers.trainer.failures import InvalidHyperparameters
from workers.trainer.fitting import fitting
from workers.trainer.forward import Forward
from workers.trainer.frozen import load_frozen
from workers.trainer.models import TrainedModel, load_model
from workers.trainer.rewards import open_rewards
from workers.trainer.stages import ppo_losses
from workers.trainer.stages.answers import prompt_len
from workers.trainer.stages.ppo_losses import AdaptivePenalty, RunningMoments
from workers.trainer.stages.sft import Supervised
from workers.trainer.tally import Score, Tally
from workers.trainer.value_head import new_head

_VALUE_WEIGHT = 0.1
"""Of the value's loss beside the policy's, as in trl."""
_PROMPTS_AT_ONCE = 32


@dataclass(slots=True)
class Rollout:
    """An answer. Vectors have a number for each of its tokens."""

    ids: list[int]
    num_prompt: int
    score: float = 0.0
    log_p: Tensor = field(init=False)
    reference: Tensor = field(init=False)
    values: Tensor = field(init=False)
    advantages: Tensor = field(init=False)
    returns: Tensor = field(init=False)

    @property
    def divergence(self) -> float:
        """From the reference, over the whole answer."""
        return float((self.log_p - self.reference).sum())


@dataclass(frozen=True, slots=True)
class AnswerBatch(Batch):
    rollouts: Sequence[Rollout] = ()


class PolicyOptimisation(Supervised):
    def __init__(self, spec: TrainSpec, model: TrainedModel) -> None:
        super().__init__(spec, model)
        self._closing: list[int] | None = None
        """What the chat format writes behind the token that ends an answer."""
        self._penalty = AdaptivePenalty(spec.ppo.ppo_target)
        self._moments = RunningMoments()
        self._reference = self._open_reference()
        self._rewards = open_rewards(
            spec, model, lambda folder: same_tokens(spec.model, folder), self.encoder.decode
        )

    @classmethod
    def open(cls, spec: TrainSpec) -> Self:
        model = load_model(spec)
        return cls(spec, replace(model, head=new_head(model)))

    @cached_property
    def encoder(self) -> RowEncoder:
        return load_row_encoder(self._spec, last_turn_only=True)

    # --- rows -------------------------------------------------------------------------------------

    def encode(self, rows: Sequence[Example], cutoff_len: int) -> list[EncodedRow]:
        """Prompts that leave room for an answer; a longer one is left out as a whole."""
        context_len, room = self.model.context_len, self._spec.ppo.max_new_tokens
        longest = cutoff_len if context_len is None else min(cutoff_len, context_len - room)
        if longest < 1:
            raise InvalidHyperparameters(
                f"'max_new_tokens' leaves no room for a prompt: the model's context is "
                f"{context_len} tokens.",
                "max_new_tokens",
            )
        encoded = super().encode(rows, MAX_COUNT)
        return [
            [EncodedExample((self._prompt(each.sequences[0], longest),)) for each in row]
            if isinstance(row, list)
            else row
            for row in encoded
        ]

    def _prompt(self, whole: EncodedSequence, longest: int) -> EncodedSequence:
        start = prompt_len(whole)
        if self._closing is None:
            answer = whole.ids[start:]
            ends = [at for at, token in enumerate(answer) if token in self.encoder.stop_ids]
            self._closing = [*answer[ends[-1] + 1 :]] if ends else None
        prompt = [*whole.ids[:start]]
        fits = 1 < start <= longest  # the first token is never a target
        labels = prompt if fits else [IGNORED] * start
        return EncodedSequence(prompt, labels, is_truncated=not fits)

    def collate(self, examples: EncodedExamples, rows: Sequence[Row]) -> Batch:
        raise NotImplementedError("rows become batches once they are answered")

    # --- a step -----------------------------------------------------------------------------------

    def updates(
        self, examples: EncodedExamples, batches: Sequence[Sequence[Row]]
    ) -> Iterable[Sequence[Batch]]:
        prompts = [
            examples.sequences(index)[0][0].tolist()
            for rows in batches
            for row in rows
            for index in row
        ]
        rollouts = self._rollouts(prompts)
        num_parts = min(self._spec.ppo.ppo_buffer_size, len(rollouts))
        for _ in range(self._spec.ppo.ppo_epochs):
            order: list[int] = torch.randperm(len(rollouts)).tolist()
            for part in range(num_parts):
                chosen = [rollouts[index] for index in order[part::num_parts]]
                yield [*_batches(chosen, self._spec.training.per_device_train_batch_size)]
        divergence = sum(each.divergence for each in rollouts) / len(rollouts)
        self._penalty.update(divergence, len(rollouts))

    def loss(self, batch: Batch) -> Score:
        assert isinstance(batch, AnswerBatch)
        log_p, values = self._measure(batch)
        before, old_values, advantages, returns = (
            torch.cat([getattr(each, name) for each in batch.rollouts]).to(log_p.device)
            for name in ("log_p", "values", "advantages", "returns")
        )
        policy = ppo_losses.policy_loss(log_p, before, advantages).sum()
        value = ppo_losses.value_loss(values, old_values, returns).sum()
        rollouts = batch.rollouts
        sums = {
            "policy_loss": policy,
            "value_loss": value,
            "answers": torch.tensor(float(len(rollouts))),
            "reward": torch.tensor(sum(each.score for each in rollouts)),
            "kl": torch.tensor(sum(each.divergence for each in rollouts)),
            "kl_weight": torch.tensor(self._penalty.weight * len(rollouts)),
        }
        return Score(policy + _VALUE_WEIGHT * value, sums)

    def metrics(self, tally: Tally) -> dict[str, float]:
        """Losses are means over tokens, the rest over answers."""
        answers = max(tally.sums.get("answers", 0.0), 1.0)
        told = {"loss": tally.mean_loss}
        told |= {name: tally.mean(name) for name in ("policy_loss", "value_loss")}
        told |= {name: tally.sums.get(name, 0.0) / answers for name in ("reward", "kl")}
        told |= {"kl_weight": tally.sums.get("kl_weight", 0.0) / answers}
        return told | {"answer_tokens": tally.weight / answers}

    @property
    def state(self) -> dict[str, float]:
        return {"kl_weight": self._penalty.weight, **asdict(self._moments)}

    def restore(self, state: dict[str, float]) -> None:
        if state:
            self._penalty.weight = state["kl_weight"]
            names = {each.name for each in fields(RunningMoments)}
            self._moments = RunningMoments(**{name: state[name] for name in names})

    # --- answers ----------------------------------------------------------------------------------

    @torch.no_grad()
    def _rollouts(self, prompts: Sequence[list[int]]) -> list[Rollout]:
        """Answered, scored and measured by the policy as it is."""
        with evaluating(self.model.module):
            rollouts = [
                each
                for at in range(0, len(prompts), _PROMPTS_AT_ONCE)
                for each in self._answer(prompts[at : at + _PROMPTS_AT_ONCE])
            ]
            self._score(rollouts)
            for batch in _batches(rollouts, _PROMPTS_AT_ONCE):
                self._fill(batch)
        self._estimate(rollouts)
        return rollouts

    def _answer(self, prompts: Sequence[list[int]]) -> Iterator[Rollout]:
        """Prompts are padded on the left."""
        wanted, device = self._spec.ppo, self.model.device
        width = max(map(len, prompts))
        padding = min(self.encoder.stop_ids, default=0)
        ids = torch.tensor([[padding] * (width - len(each)) + each for each in prompts])
        mask = torch.tensor([[0] * (width - len(each)) + [1] * len(each) for each in prompts])
        module: Any = self.model.module
        with self.model.autocast():
            generated = module.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                do_sample=True,
                max_new_tokens=wanted.max_new_tokens,
                temperature=wanted.temperature,
                top_p=wanted.top_p,
                top_k=wanted.top_k,
                repetition_penalty=wanted.repetition_penalty,
                eos_token_id=sorted(self.encoder.stop_ids) or None,
                pad_token_id=padding,
            )
        for prompt, row in zip(prompts, generated[:, width:].tolist(), strict=True):
            ends = (at for at, token in enumerate(row) if token in self.encoder.stop_ids)
            yield Rollout([*prompt, *row[: next(ends, len(row)) + 1]], len(prompt))

    def _score(self, rollouts: Sequence[Rollout]) -> None:
        closing, stop_ids = self._closing or [], self.encoder.stop_ids
        whole = [
            [*each.ids, *closing] if each.ids[-1] in stop_ids else each.ids for each in rollouts
        ]
        scores = self._rewards.score(whole).float()
        for rollout, score in zip(rollouts, scores.tolist(), strict=True):
            rollout.score = score

    def _fill(self, batch: AnswerBatch) -> None:
        log_p, values = self._measure(batch)
        lengths = [len(each.ids) - each.num_prompt for each in batch.rollouts]
        measured = (log_p, self._log_p_of_reference(batch), values)
        parts = zip(*(each.cpu().split(lengths) for each in measured), strict=True)
        for rollout, (own, reference, value) in zip(batch.rollouts, parts, strict=True):
            rollout.log_p, rollout.reference, rollout.values = own, reference, value

    def _estimate(self, rollouts: Sequence[Rollout]) -> None:
        """Advantages and returns."""
        scores = torch.tensor([each.score for each in rollouts])
        if self._spec.ppo.ppo_score_norm:
            self._moments.add(scores)
            scores = self._moments.normalise(scores)
        rewards = [
            ppo_losses.token_rewards(each.log_p, each.reference, score, self._penalty.weight)
            for each, score in zip(rollouts, scores.tolist(), strict=True)
        ]
        lengths = [len(each) for each in rewards]
        if self._spec.ppo.ppo_whiten_rewards:
            together = ppo_losses.whiten(torch.cat(rewards), keeps_mean=True)
            rewards = [*together.split(lengths)]
        found = [
            ppo_losses.advantages(reward, each.values)
            for reward, each in zip(rewards, rollouts, strict=True)
        ]
        whitened = ppo_losses.whiten(torch.cat(found)).split(lengths)
        for rollout, own, white in zip(rollouts, found, whitened, strict=True):
            rollout.returns, rollout.advantages = own + rollout.values, white

    # --- what models say --------------------------------------------------------------------------

    def _measure(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """[tokens of all answers] log-probabilities and values by the policy."""
        assert self.model.head is not None
        logits, hidden = self._forward.logits_and_hidden(batch)
        targets = batch.targets.to(self.model.device)
        is_answer = targets != IGNORED
        values = self.model.head(hidden[is_answer].float())[:, 0]
        return _log_p(logits[is_answer], targets[is_answer]), values

    def _log_p_of_reference(self, batch: Batch) -> Tensor:
        targets = batch.targets.to(self.model.device)
        is_answer = targets != IGNORED
        if self._reference is None:
            logits = self._forward.base_logits(batch)
        else:
            logits = self._reference.logits(batch)
        return _log_p(logits[is_answer], targets[is_answer])

    def _open_reference(self) -> Forward | None:
        """None: the model without its adapter."""
        spec, model = self._spec, self.model
        path, adapter = spec.ppo.ref_model, spec.ppo.ref_model_adapters
        if path is None:
            path, adapter = spec.model.model_name_or_path, spec.model.adapter_name_or_path
            if model.is_adapter and adapter is None:
                return None
        module = load_frozen(
            spec, Path(path), None if adapter is None else Path(adapter), "ref_model"
        )
        return Forward(replace(model, module=module, is_adapter=False, head=None))


def _batches(rollouts: Sequence[Rollout], size: int) -> Iterator[AnswerBatch]:
    lengths = [len(each.ids) for each in rollouts]
    for at in range(0, len(rollouts), size):
        rows = [(index,) for index in range(at, min(at + size, len(rollouts)))]
        for part in fitting(rows, lengths):
            yield _batch([rollouts[index] for (index,) in part])


def _batch(rollouts: Sequence[Rollout]) -> AnswerBatch:
    made = collate([[_as_arrays(each)] for each in rollouts])
    own = {each.name: getattr(made, each.name) for each in fields(Batch)}
    return AnswerBatch(**own, rollouts=rollouts)


def _as_arrays(rollout: Rollout) -> Sequence32:
    ids = np.asarray(rollout.ids, dtype=np.int32)
    labels = ids.copy()
    labels[: rollout.num_prompt] = IGNORED
    return ids, labels


def _log_p(logits: Tensor, targets: Tensor) -> Tensor:
    return torch.log_softmax(logits.float(), -1).gather(-1, targets[:, None])[:, 0]
