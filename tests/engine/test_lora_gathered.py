"""Steps in which each token is multiplied by its own adapter alone, against plain arithmetic."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

from workers.engine.hf.lora.layer import LoraLinear
from workers.engine.hf.lora.plan import MAX_OWN_TOKENS, AdapterStep, Block, plan_adapters
from workers.engine.hf.lora.wrapping import wrap_linears

CPU = torch.device("cpu")
WIDTH, PLACE = 64, 8
Factors = dict[str, tuple[Tensor, Tensor]]


class Mlp(nn.Module):
    """Two layers of one input and one size, two of one input and different sizes, one alone."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(16, 24), nn.Linear(16, 24, bias=False)
        self.wide, self.narrow = nn.Linear(24, 16, bias=False), nn.Linear(24, 8)
        self.down = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.gate(x) * self.up(x)
        return self.down(self.wide(y)) + self.narrow(y).repeat(1, 2)


class Served:
    """A model with adapters at places that can be taken anew, and what it should compute."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.step = AdapterStep()
        self.model = Mlp().to(dtype)
        probe = torch.zeros(1, 16, dtype=dtype)
        self.layers = wrap_linears(self.model, WIDTH, self.step, lambda: self.model(probe))
        self.installed: dict[int, tuple[Block, Factors]] = {}

    def install(self, place: int, rank: int, names: list[str]) -> None:
        self.blank(place)
        first, factors = place * PLACE, {}
        for name in names:
            layer = self.layers[name]
            a = torch.randn(rank, layer.in_features).to(layer.weight.dtype) * 0.3
            b = torch.randn(rank, layer.out_features).to(layer.weight.dtype) * 0.3
            layer.install(first, a, b)
            factors[name] = (a.float(), b.float())
        self.installed[place] = ((first, first + rank), factors)

    def blank(self, place: int) -> None:
        if place in self.installed:
            (first, end), _ = self.installed.pop(place)
            for layer in self.layers.values():
                layer.blank(first, end)

    def block(self, place: int | None) -> Block:
        return (0, 0) if place is None else self.installed[place][0]

    def wanted(self, name: str, x_I: Tensor, place: int | None) -> Tensor:
        layer: LoraLinear = self.layers[name]
        y = x_I.float() @ layer.weight.float().T
        y = y if layer.bias is None else y + layer.bias.float()
        factors = {} if place is None else self.installed[place][1]
        if name in factors:
            a, b = factors[name]
            y = y + x_I.float() @ a.T @ b
        return y

    def check(self, places: list[int | None]) -> None:
        plan_adapters(self.step, [self.block(p) for p in places], [1] * len(places), CPU)
        dtype = self.layers["down"].weight.dtype
        for name, layer in self.layers.items():
            x_TI = torch.randn(len(places), layer.in_features).to(dtype)
            # Layers of one input are asked together, as in a model.
            group = [n for n, other in self.layers.items() if other.group is layer.group]
            found = {n: self.layers[n](x_TI).float() for n in group}[name]
            wanted = torch.stack(
                [self.wanted(name, x, p) for x, p in zip(x_TI, places, strict=True)]
            )
            tolerance = 1e-5 if dtype == torch.float32 else 0.1
            assert torch.allclose(found, wanted, atol=tolerance), (name, places)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", range(6))
@torch.inference_mode()
def test_tokens_keep_to_their_own_while_adapters_come_and_go(dtype: torch.dtype, seed: int) -> None:
    torch.manual_seed(seed)
    chance = random.Random(seed)
    served = Served(dtype)
    names = list(served.layers)
    for _ in range(30):
        place = chance.randrange(WIDTH // PLACE)
        if chance.random() < 0.5:
            chosen = chance.sample(names, chance.randint(1, len(names)))
            served.install(place, chance.choice([2, 4, PLACE]), chosen)
        elif chance.random() < 0.3:
            served.blank(place)
        there = [None, *served.installed]
        num_tokens = chance.randint(1, MAX_OWN_TOKENS + 1)
        places = [chance.choice(there) for _ in range(num_tokens)]
        served.check(places)
        chance.shuffle(places)
        served.check(places)


@pytest.mark.parametrize("counts", [[1, 1, 1], [2, 5, 1]], ids=["decoding", "prompts"])
@torch.inference_mode()
def test_another_adapters_infinity_stays_its_own(counts: list[int]) -> None:
    served = Served(torch.bfloat16)
    for place in (0, 1):
        served.install(place, 4, list(served.layers))
    spoilt = served.layers["down"]
    spoilt.install(0, torch.full((4, 16), 3e38), torch.ones(4, 16))
    x = torch.rand(sum(counts), 16).add_(1).bfloat16()
    plan_adapters(served.step, [served.block(0), served.block(1), (0, 0)], counts, CPU)
    found = spoilt(x)
    assert not found[: counts[0]].isfinite().any()
    assert found[counts[0] :].isfinite().all()


@torch.inference_mode()
def test_large_factors_are_not_copied() -> None:
    """Their ranks lie behind the weights already; copies for each token would multiply them."""
    model = nn.Sequential(nn.Linear(512, 4096, bias=False))
    step = AdapterStep()
    layer = wrap_linears(model, 16, step, lambda: model(torch.zeros(1, 512)))["0"]
    a, b = torch.randn(8, 512), torch.randn(8, 4096)
    layer.install(8, a, b)
    plan_adapters(step, [(8, 16), (0, 0)], [1, 1], CPU)
    x = torch.randn(2, 512)
    added = layer(x) - x @ layer.weight.T
    assert torch.allclose(added[0], x[0] @ a.T @ b, atol=1e-2)
    assert not added[1].abs().gt(1e-3).any()
    assert not layer.group._gathered._copies  # pyright: ignore[reportPrivateUsage]
