"""Losses of pairs and of labelled answers, as pure functions of sequences' log-probabilities.

Shapes: [P] one number a pair, [N] one an answer. A "ratio" is the policy's log-probability less the
reference's. Every loss is given per pair or answer, for the caller to sum.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def sigmoid(chosen: Tensor, rejected: Tensor, beta: float, smoothing: float = 0.0) -> Tensor:
    """DPO: -log σ(β (chosen - rejected)), of ratios (Rafailov et al. 2023, arXiv:2305.18290,
    equation 7). With `smoothing` ε, the share of labels that are taken to be wrong, it is
    -(1-ε) log σ(β d) - ε log σ(-β d) (cDPO, Mitchell 2023)."""
    difference = beta * (chosen - rejected)
    return -(1 - smoothing) * logsigmoid(difference) - smoothing * logsigmoid(-difference)


def hinge(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """max(0, 1 - β (chosen - rejected)), of ratios (SLiC, Zhao et al. 2023, arXiv:2305.10425, with
    the reference as in Liu et al. 2023, arXiv:2309.06657)."""
    return torch.relu(1 - beta * (chosen - rejected))


def ipo(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """(chosen - rejected - 1/(2β))², of ratios of mean log-probabilities per token (Azar et al.
    2023, arXiv:2310.12036, equation 17; the mean as its authors advise)."""
    return (chosen - rejected - 1 / (2 * beta)) ** 2


def kto_pair(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """Half of 1 - σ(β (chosen - KL_rejected)) and 1 - σ(β (KL_chosen - rejected)), of ratios: each
    KL is the batch's mean ratio on the other side, at least 0 and without a gradient (the paired
    form of Ethayarajh et al. 2024, arXiv:2402.01306)."""
    chosen_kl = chosen.mean().clamp(min=0).detach()
    rejected_kl = rejected.mean().clamp(min=0).detach()
    wanted = 1 - torch.sigmoid(beta * (chosen - rejected_kl))
    unwanted = 1 - torch.sigmoid(beta * (chosen_kl - rejected))
    return (wanted + unwanted) / 2


def orpo(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """-chosen - β log σ(log odds(chosen) - log odds(rejected)), of mean log-probabilities per
    token, where odds(p) = p / (1 - p) (Hong et al. 2024, arXiv:2403.07691)."""
    log_odds = (chosen - rejected) - (_log1mexp(chosen) - _log1mexp(rejected))
    return -chosen - beta * logsigmoid(log_odds)


def simpo(chosen: Tensor, rejected: Tensor, beta: float, gamma: float) -> Tensor:
    """-log σ(β (chosen - rejected) - γ), of mean log-probabilities per token (Meng et al. 2024,
    arXiv:2405.14734, equation 6)."""
    return -logsigmoid(beta * (chosen - rejected) - gamma)


def bradley_terry(chosen: Tensor, rejected: Tensor) -> Tensor:
    """-log σ(chosen - rejected), of rewards (Ouyang et al. 2022, arXiv:2203.02155, equation 1)."""
    return -logsigmoid(chosen - rejected)


def kto(
    ratios: Tensor, kl: Tensor, desirable: Tensor, beta: float, weights: tuple[float, float]
) -> Tensor:
    """w (1 - σ(β (ratio - KL))) for desirable answers and w (1 - σ(β (KL - ratio))) for the others
    (Ethayarajh et al. 2024, arXiv:2402.01306, equation 8). `weights` are those of either kind;
    `kl` has no gradient and is at least 0."""
    signs = torch.where(desirable, 1.0, -1.0)
    scale = torch.where(desirable, weights[0], weights[1])
    return scale * (1 - torch.sigmoid(beta * signs * (ratios - kl)))


def _log1mexp(log_p: Tensor) -> Tensor:
    """log(1 - p), exact for p near 0 and near 1 (Mächler 2012)."""
    log_p = log_p.clamp(max=-1e-7)
    near_one = log_p > -0.6931472
    return torch.where(near_one, torch.log(-torch.expm1(log_p)), torch.log1p(-torch.exp(log_p)))
