"""Each token's own adapter factors, copied side by side, for steps of few tokens on CPU.

While rows only decode, the same few tokens use the same adapters step after step. Then each is
multiplied by its own factors alone: two batched products with nothing to blank, and with eight
adapters in a batch an eighth of the multiplications. The copies are float32: small products in a
narrower type cost more to set up than to compute.

Shape letters as in `layer`; but R is the largest rank among the tokens' adapters, P the parts that
the outputs are cut into (one for each layer of the group where they are alike, else one) and Q the
outputs of a part.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.engine.hf.lora.plan import MAX_OWN_TOKENS, Block

_MAX_ELEMENTS = 1 << 17
"""Of one group's copies. Beyond, reading them takes longer than the other adapters' columns do."""


class GatheredFactors:
    """Of one group of layers."""

    def __init__(self, in_features: int, sizes: list[int]) -> None:
        self._in_features = in_features
        self._num_members = len(sizes)
        self._num_parts = len(sizes) if len(set(sizes)) == 1 else 1
        self._num_outputs = sum(sizes)
        self._rank = 0
        self._copies: dict[Block, tuple[Tensor, Tensor]] = {}
        """A [I, M * R] and B [P, R * M / P, Q] of each adapter met: rows come and go, and a new
        order of them must cost little."""
        self._blocks: list[Block] = []
        self._a = self._b = torch.empty(0)

    def forget(self, first: int, end: int) -> None:
        """These ranks are another adapter's from now on."""
        for block in [b for b in self._copies if b[0] < end and first < b[1]]:
            del self._copies[block]
            self._blocks = []

    def choose(self, blocks: list[Block], a_CMI: Tensor, b_OCM: Tensor) -> bool:
        """Copies what these tokens need; False if that is too much."""
        rank = max(end - first for first, end in blocks)
        if rank != self._rank:
            self._rank, self._blocks = rank, []
            self._copies.clear()
        a_elements = self._num_members * rank * self._in_features
        b_elements = self._num_members // self._num_parts * rank * self._num_outputs
        if MAX_OWN_TOKENS * (a_elements + b_elements) > _MAX_ELEMENTS:
            return False
        if blocks != self._blocks:
            for block in blocks:
                if block not in self._copies:
                    self._copies[block] = self._copy(*block, a_CMI, b_OCM)
            self._a = torch.stack([self._copies[block][0] for block in blocks])
            self._b = torch.cat([self._copies[block][1] for block in blocks])
            self._blocks = blocks
        return True

    def _copy(self, first: int, end: int, a_CMI: Tensor, b_OCM: Tensor) -> tuple[Tensor, Tensor]:
        """Ranks that this adapter has not are zero."""
        missing = self._rank - (end - first)
        a_IMR = F.pad(a_CMI[first:end].permute(2, 1, 0).float(), (0, missing))
        b_ORM = F.pad(b_OCM[:, first:end].float(), (0, 0, 0, missing))
        if self._num_parts > 1:  # a layer's own outputs alone
            b_PQRM = b_ORM.unflatten(0, (self._num_parts, -1))
            b = b_PQRM.diagonal(0, 0, 3).permute(2, 1, 0)
        else:
            b = b_ORM.permute(2, 1, 0).flatten(0, 1)[None]
        return a_IMR.flatten(1).contiguous(), b.contiguous()

    def add(self, y_TO: Tensor, x_TI: Tensor) -> None:
        """To each token's outputs what its adapter makes of its input; both float32."""
        b = self._b
        num_products, num_ranks, size = b.shape
        h = torch.bmm(x_TI[:, None], self._a).view(num_products, 1, num_ranks)
        y_TO.view(num_products, 1, size).baddbmm_(h, b)
