"""Losses by value against their formulas in double precision."""

from __future__ import annotations

import math

import pytest
import torch

from workers.trainer.stages import preference_losses, token_losses

CHOSEN = torch.tensor([0.7, -0.3, 2.0], dtype=torch.float64)
REJECTED = torch.tensor([-0.2, 0.4, 1.5], dtype=torch.float64)
BETA = 0.3


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def each(formula: object) -> list[float]:
    assert callable(formula)
    return [formula(c, r) for c, r in zip(CHOSEN.tolist(), REJECTED.tolist(), strict=True)]


def test_dpo_is_the_log_sigmoid_of_the_scaled_difference_of_ratios() -> None:
    found = preference_losses.sigmoid(CHOSEN, REJECTED, BETA)
    assert found.tolist() == pytest.approx(each(lambda c, r: -log_sigmoid(BETA * (c - r))))


def test_smoothing_counts_a_share_of_the_labels_as_wrong() -> None:
    found = preference_losses.sigmoid(CHOSEN, REJECTED, BETA, 0.2)
    wanted = each(
        lambda c, r: -0.8 * log_sigmoid(BETA * (c - r)) - 0.2 * log_sigmoid(-BETA * (c - r))
    )
    assert found.tolist() == pytest.approx(wanted)


def test_hinge_is_nothing_beyond_its_margin() -> None:
    found = preference_losses.hinge(CHOSEN, REJECTED, 2.0)
    assert found.tolist() == pytest.approx(each(lambda c, r: max(0.0, 1 - 2.0 * (c - r))))
    assert preference_losses.hinge(CHOSEN + 9, REJECTED, 2.0).tolist() == [0.0, 0.0, 0.0]


def test_ipo_pulls_the_difference_to_its_target() -> None:
    found = preference_losses.ipo(CHOSEN, REJECTED, BETA)
    assert found.tolist() == pytest.approx(each(lambda c, r: (c - r - 1 / (2 * BETA)) ** 2))


def test_paired_kto_measures_each_side_from_the_others_mean() -> None:
    found = preference_losses.kto_pair(CHOSEN, REJECTED, BETA)
    chosen_kl, rejected_kl = max(CHOSEN.mean().item(), 0), max(REJECTED.mean().item(), 0)
    wanted = each(
        lambda c, r: (
            ((1 - sigmoid(BETA * (c - rejected_kl))) + (1 - sigmoid(BETA * (chosen_kl - r)))) / 2
        )
    )
    assert found.tolist() == pytest.approx(wanted)


def test_orpo_adds_the_odds_to_the_likelihood() -> None:
    chosen, rejected = CHOSEN - 3, REJECTED - 3
    found = preference_losses.orpo(chosen, rejected, BETA)

    def formula(c: float, r: float) -> float:
        c, r = c - 3, r - 3
        odds = (c - math.log(1 - math.exp(c))) - (r - math.log(1 - math.exp(r)))
        return -c - BETA * log_sigmoid(odds)

    assert found.tolist() == pytest.approx(each(formula))
    certain = torch.tensor([0.0], requires_grad=True)
    loss = preference_losses.orpo(certain, torch.tensor([-40.0]), BETA)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert certain.grad is not None
    assert torch.isfinite(certain.grad).all()


def test_simpo_wants_a_margin() -> None:
    found = preference_losses.simpo(CHOSEN, REJECTED, 2.0, 0.5)
    assert found.tolist() == pytest.approx(each(lambda c, r: -log_sigmoid(2.0 * (c - r) - 0.5)))


def test_a_reward_model_orders_pairs() -> None:
    found = preference_losses.bradley_terry(CHOSEN, REJECTED)
    assert found.tolist() == pytest.approx(each(lambda c, r: -log_sigmoid(c - r)))


def test_kto_weighs_either_kind_of_answer() -> None:
    desirable = torch.tensor([True, False, True])
    found = preference_losses.kto(CHOSEN, torch.tensor(0.1), desirable, BETA, (2.0, 0.5))
    a, b, c = CHOSEN.tolist()
    assert found.tolist() == pytest.approx(
        [
            2.0 * (1 - sigmoid(BETA * (a - 0.1))),
            0.5 * (1 - sigmoid(BETA * (0.1 - b))),
            2.0 * (1 - sigmoid(BETA * (c - 0.1))),
        ]
    )


LOGITS = torch.randn(5, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
TARGETS = torch.tensor([1, 4, 29, 0, 7])


def probabilities() -> list[float]:
    return torch.softmax(LOGITS, -1)[torch.arange(5), TARGETS].tolist()


def test_plain_and_dft_losses_are_the_target_s_likelihood_and_its_weighted_one() -> None:
    plain = token_losses.plain(LOGITS, TARGETS).tolist()
    assert plain == pytest.approx([-math.log(p) for p in probabilities()], rel=1e-5)
    found = token_losses.dft(LOGITS, TARGETS).tolist()
    assert found == pytest.approx([-p * math.log(p) for p in probabilities()], rel=1e-5)


def test_no_gradient_goes_through_the_weight_of_dft() -> None:
    logits = LOGITS.clone().requires_grad_()
    token_losses.dft(logits, TARGETS).sum().backward()
    plain = LOGITS.clone().requires_grad_()
    token_losses.plain(plain, TARGETS).sum().backward()
    assert logits.grad is not None
    assert plain.grad is not None
    weights = torch.tensor(probabilities(), dtype=torch.float64)[:, None]
    torch.testing.assert_close(logits.grad, plain.grad * weights, rtol=1e-4, atol=1e-6)


def test_asft_adds_the_drift_from_the_base() -> None:
    reference = LOGITS.roll(1, 0)
    p = torch.log_softmax(reference, -1)
    drift = (p.exp() * (p - torch.log_softmax(LOGITS, -1))).sum(-1)
    found = token_losses.asft(LOGITS, TARGETS, reference, 0.4)
    wanted = token_losses.dft(LOGITS, TARGETS) + 0.4 * drift
    torch.testing.assert_close(found.double(), wanted.double(), rtol=1e-4, atol=1e-5)
    same = token_losses.asft(LOGITS, TARGETS, LOGITS, 0.4)
    torch.testing.assert_close(same, token_losses.dft(LOGITS, TARGETS))


def test_eaft_weighs_by_the_entropy_of_the_likeliest() -> None:
    top = torch.softmax(LOGITS.topk(20, -1).values, -1)
    entropy = -(top * top.log()).sum(-1)
    wanted = token_losses.plain(LOGITS, TARGETS).double() * (entropy / 3) ** 0.5
    found = token_losses.eaft(LOGITS, TARGETS, 0.5)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-6)
    certain = torch.zeros(1, 30)
    certain[0, 0] = 100.0
    assert token_losses.eaft(certain, torch.tensor([1]), 1.0).item() < 1e-3
