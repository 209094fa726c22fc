"""Losses of answers token by token, as pure functions of logits.

Shapes: [T, V] logits of T scored tokens over a vocabulary of V, [T] their targets. Each gives the
loss of every token, for the caller to sum.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

_EAFT_TOP = 20
_EAFT_SCALE = 3.0
"""About log 20: the entropy of twenty tokens that are equally likely."""


def plain(logits_TV: Tensor, targets_T: Tensor) -> Tensor:
    """-log p(target)."""
    return cross_entropy(logits_TV.float(), targets_T, reduction="none")


def dft(logits_TV: Tensor, targets_T: Tensor) -> Tensor:
    """-sg(p) log p: weighted by the target's own probability, without a gradient through it (Wu et
    al. 2025, arXiv:2508.05629)."""
    losses = plain(logits_TV, targets_T)
    return losses * torch.exp(-losses.detach())


def asft(logits_TV: Tensor, targets_T: Tensor, reference_TV: Tensor, alpha: float) -> Tensor:
    """DFT's loss and α KL(reference || policy), which anchors it to the base model (Zhu et al.
    2025, arXiv:2509.23753)."""
    policy = log_softmax(logits_TV.float(), -1)
    reference = log_softmax(reference_TV.float(), -1)
    drift = kl_div(policy, reference, reduction="none", log_target=True).sum(-1)
    return dft(logits_TV, targets_T) + alpha * drift


def eaft(logits_TV: Tensor, targets_T: Tensor, alpha: float) -> Tensor:
    """(H / 3)^α -log p: weighted by the entropy H of the twenty likeliest tokens, without a
    gradient through it, so that confident conflicts with the data count little (Diao et al. 2026,
    arXiv:2601.02151)."""
    losses = plain(logits_TV, targets_T)
    with torch.no_grad():
        top = logits_TV.float().topk(min(_EAFT_TOP, logits_TV.shape[-1]), -1).values
        log_p = log_softmax(top, -1)
        entropy = -(log_p.exp() * log_p).sum(-1)
    return losses * (entropy / _EAFT_SCALE) ** alpha
