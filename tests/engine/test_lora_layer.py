"""Layers that share an input, with adapters anywhere in their arena, against plain arithmetic."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workers.engine.hf.lora.plan import AdapterStep, plan_adapters
from workers.engine.hf.lora.wrapping import wrap_linears

SIZES = {"q": 24, "k": 8, "v": 8}
WIDTH, RANK = 160, 4


class Attention(nn.Module):
    """Three layers of one input, one of which has a bias, and one of another input."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(16, 24, bias=False)
        self.k = nn.Linear(16, 8)
        self.v = nn.Linear(16, 8, bias=False)
        self.o = nn.Linear(24, 16)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        return self.o(q * torch.cat([k, v, k - v], -1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("places", [(0, 4), (0, 100), (100, 120)])
@pytest.mark.parametrize("num_tokens", [1, 5, 40])
@torch.inference_mode()
def test_each_token_gets_its_own_adapter(
    dtype: torch.dtype, places: tuple[int, int], num_tokens: int
) -> None:
    torch.manual_seed(1)
    model = Attention().to(dtype)
    step = AdapterStep()
    x = torch.randn(1, 3 * num_tokens, 16, dtype=dtype)
    base = {name: linear.weight.float() for name, linear in model.named_children()}  # type: ignore[operator]
    expected_base = model(x)
    layers = wrap_linears(model, WIDTH, step, lambda: model(x))
    assert torch.allclose(model(x), expected_base, atol=1e-6 if dtype == torch.float32 else 0.1)

    factors: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}
    for place in places:
        for name in ("q", "v", "o"):
            layer = layers[name]
            a = torch.randn(RANK, layer.in_features, dtype=dtype) * 0.3
            b = torch.randn(RANK, layer.out_features, dtype=dtype) * 0.3
            layer.install(place, a, b)
            factors[place, name] = (a.float(), b.float())
    counts = [num_tokens] * 3
    blocks = [(places[0], places[0] + RANK), (0, 0), (places[1], places[1] + RANK)]
    plan_adapters(step, blocks, counts, x.device)
    outputs = {name: layers[name](x).float() for name in SIZES}
    for name, output in outputs.items():
        for part, place in enumerate((places[0], None, places[1])):
            tokens = slice(part * num_tokens, (part + 1) * num_tokens)
            own = x[:, tokens].float()
            bias = layers[name].bias
            wanted = own @ base[name].T + (0.0 if bias is None else bias.float())
            if (place, name) in factors and place is not None:
                a, b = factors[place, name]
                wanted = wanted + own @ a.T @ b
            tolerance = 1e-5 if dtype == torch.float32 else 0.08
            assert torch.allclose(output[:, tokens], wanted, atol=tolerance), (name, part)


@torch.inference_mode()
def test_layers_of_one_input_are_one_product() -> None:
    model = Attention()
    calls: list[int] = []
    layers = wrap_linears(model, 0, AdapterStep(), lambda: model(torch.randn(1, 2, 16)))
    groups = {name: layer.group for name, layer in layers.items()}
    assert groups["q"] is groups["k"] is groups["v"] is not groups["o"]
    compute = groups["q"].compute
    groups["q"].compute = lambda x: calls.append(1) or compute(x)  # type: ignore
    first, second = model(torch.ones(1, 2, 16)), model(torch.zeros(1, 2, 16))
    assert len(calls) == 2
    assert not torch.equal(first, second)


@torch.inference_mode()
def test_an_adapter_far_off_may_leave_layers_alone() -> None:
    """Beyond the ranks that there is room for at first, in a batch with others."""
    model = Attention()
    step = AdapterStep()
    x = torch.randn(1, 4, 16)
    base = model(x)
    layers = wrap_linears(model, WIDTH, step, lambda: model(x))
    factors = {
        place: (torch.randn(RANK, 16), torch.randn(RANK, layers[name].out_features))
        for place, name in ((0, "q"), (140, "q"))
    }
    for place, (a, b) in factors.items():
        layers["q"].install(place, a, b)
    plan_adapters(step, [(0, RANK), (140, 140 + RANK), (0, 0)], [1, 1, 2], x.device)
    a, b = factors[140]
    wanted = F.linear(x, layers["q"].weight)[:, 1] + x[:, 1] @ a.T @ b
    assert torch.allclose(layers["q"](x)[:, 1], wanted, atol=1e-5)
    assert torch.allclose(model(x)[:, 2:], base[:, 2:], atol=1e-5)
