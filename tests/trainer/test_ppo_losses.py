"""The arithmetic of PPO, by the formulas written out."""

from __future__ import annotations

import math

import pytest
import torch

from workers.trainer.stages.ppo_losses import (
    AdaptivePenalty,
    RunningMoments,
    advantages,
    policy_loss,
    token_rewards,
    value_loss,
    whiten,
)


def test_tokens_are_charged_for_their_divergence_and_the_last_is_given_the_score() -> None:
    rewards = token_rewards(torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -1.0]), 3.0, 0.2)
    assert rewards.tolist() == pytest.approx([-0.1, 0.2 + 3.0])


def test_advantages_are_sums_of_discounted_surprises() -> None:
    rewards, values = [0.1, -0.2, 0.3, 1.0], [0.5, 0.4, -0.3, 0.2]
    gamma, lam = 0.9, 0.8
    after = [*values[1:], 0.0]
    deltas = [r + gamma * n - v for r, n, v in zip(rewards, after, values, strict=True)]
    expected = [
        sum((gamma * lam) ** k * delta for k, delta in enumerate(deltas[t:])) for t in range(4)
    ]
    found = advantages(torch.tensor(rewards), torch.tensor(values), gamma, lam)
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_whitened_values_have_no_mean_and_unit_variance() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 9.0])
    deviation = math.sqrt(sum((x - 4) ** 2 for x in (1, 2, 4, 9)) / 3)
    expected = [(x - 4) / deviation for x in (1, 2, 4, 9)]
    assert whiten(values).tolist() == pytest.approx(expected, rel=1e-5)
    kept = [each + 4 for each in expected]
    assert whiten(values, keeps_mean=True).tolist() == pytest.approx(kept, rel=1e-5)
    assert whiten(torch.tensor([3.0])).tolist() == [0.0]


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [(1.1, 2.0, -2.2), (1.5, 2.0, -2.4), (0.5, 2.0, -1.0), (1.5, -2.0, 3.0), (0.5, -2.0, 1.6)],
)
def test_a_policy_gains_nothing_beyond_the_clip(
    ratio: float, advantage: float, expected: float
) -> None:
    before = torch.tensor([-3.0])
    found = policy_loss(before + math.log(ratio), before, torch.tensor([advantage]))
    assert found.tolist() == pytest.approx([expected], rel=1e-5)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1.1, 0.5 * 0.9**2), (1.9, 0.5 * 0.8**2), (2.5, 0.5 * 0.8**2), (0.5, 0.5 * 1.5**2)],
)
def test_a_value_gains_nothing_beyond_the_clip(value: float, expected: float) -> None:
    """From 1.0, towards 2.0."""
    found = value_loss(torch.tensor([value]), torch.tensor([1.0]), torch.tensor([2.0]))
    assert found.tolist() == pytest.approx([expected], rel=1e-5)


def test_the_penalty_is_steered_to_its_target() -> None:
    penalty = AdaptivePenalty(target=6.0)
    penalty.update(60.0, 100)
    assert penalty.weight == pytest.approx(0.2 * (1 + 0.2 * 100 / 10_000))
    penalty.weight = 0.2
    penalty.update(5.4, 100)
    assert penalty.weight == pytest.approx(0.2 * (1 - 0.1 * 100 / 10_000))


def test_moments_are_those_of_all_scores_so_far() -> None:
    moments = RunningMoments()
    parts = [torch.tensor([1.0, 3.0]), torch.tensor([8.0]), torch.tensor([-2.0, 0.5, 4.0])]
    for part in parts:
        moments.add(part)
    every = torch.cat(parts)
    assert moments.mean == pytest.approx(float(every.mean()))
    expected = (parts[0] - every.mean()) / every.std()
    assert moments.normalise(parts[0]).tolist() == pytest.approx(expected.tolist(), rel=1e-5)
