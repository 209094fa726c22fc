"""The arithmetic of PPO on answers: rewards of tokens, advantages, losses and the penalty's weight.

Vectors are of tokens: those of one answer, or of many behind each other. The form is that of
Ziegler et al. 2019, "Fine-Tuning Language Models from Human Preferences" (arXiv:1909.08593), as trl
0.9 has it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

HORIZON = 10_000
"""Answers in which the penalty's weight moves."""
_LARGEST_ERROR = 0.2
_EPSILON = 1e-8


def token_rewards(log_p: Tensor, reference: Tensor, score: float, weight: float) -> Tensor:
    """Of one answer: -weight · (log π - log π_ref) for each token, and the score at the last one
    (arXiv:1909.08593, equation 2)."""
    rewards = -weight * (log_p - reference)
    rewards[-1] += score
    return rewards


def advantages(rewards: Tensor, values: Tensor, gamma: float = 1.0, lam: float = 0.95) -> Tensor:
    """Of one answer: A_t = δ_t + γλ·A_{t+1} with δ_t = r_t + γ·V_{t+1} - V_t, where V and A are 0
    behind the end (Schulman et al. 2015, "High-Dimensional Continuous Control Using Generalized
    Advantage Estimation", arXiv:1506.02438, equation 16)."""
    after = torch.cat([values[1:], values.new_zeros(1)])
    deltas = rewards + gamma * after - values
    found, held = torch.empty_like(deltas), deltas.new_zeros(())
    for at in range(len(deltas) - 1, -1, -1):
        held = deltas[at] + gamma * lam * held
        found[at] = held
    return found


def whiten(values: Tensor, *, keeps_mean: bool = False) -> Tensor:
    """(x - mean) / sqrt(variance + 1e-8), with Bessel's correction; the mean stays if it
    `keeps_mean`. One value alone has no variance: it is only centred."""
    mean = values.mean()
    variance = values.var() if len(values) > 1 else values.new_ones(())
    scaled = (values - mean) * torch.rsqrt(variance + _EPSILON)
    return scaled + mean if keeps_mean else scaled


def policy_loss(log_p: Tensor, before: Tensor, advantage: Tensor, clip: float = 0.2) -> Tensor:
    """max(-A·ρ, -A·clip(ρ, 1-ε, 1+ε)) with ρ = π / π_before (Schulman et al. 2017, "Proximal Policy
    Optimization Algorithms", arXiv:1707.06347, equation 7)."""
    ratio = torch.exp(log_p - before)
    return torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + clip))


def value_loss(values: Tensor, before: Tensor, returns: Tensor, clip: float = 0.2) -> Tensor:
    """½·max((V - R)², (clip(V, V_before - ε, V_before + ε) - R)²), as in OpenAI's baselines."""
    near = torch.clamp(values, before - clip, before + clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (near - returns) ** 2)


@dataclass(slots=True)
class AdaptivePenalty:
    """The weight of the divergence from the reference: w ← w·(1 + clip(KL/target - 1, ±0.2) ·
    n/horizon) after n answers (arXiv:1909.08593, section 2.2)."""

    target: float
    weight: float = 0.2

    def update(self, divergence: float, num_answers: int) -> None:
        error = min(max(divergence / self.target - 1, -_LARGEST_ERROR), _LARGEST_ERROR)
        self.weight *= 1 + error * num_answers / HORIZON


@dataclass(slots=True)
class RunningMoments:
    """Mean and variance of all scores so far (Chan et al. 1979, "Updating Formulae and a Pairwise
    Algorithm for Computing Sample Variances")."""

    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of squared distances from the mean."""

    def add(self, scores: Tensor) -> None:
        number, mean = len(scores), float(scores.mean())
        delta, total = mean - self.mean, self.count + number
        self.squares += float(((scores - mean) ** 2).sum())
        self.squares += delta**2 * self.count * number / total
        self.mean += delta * number / total
        self.count = total

    def normalise(self, scores: Tensor) -> Tensor:
        """(x - mean) / (deviation + 1e-8)"""
        deviation = (self.squares / (self.count - 1)) ** 0.5 if self.count > 1 else 1.0
        return (scores - self.mean) / (deviation + _EPSILON)
