"""Adapters on layers that do not see a batch's tokens as the others do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from tests.architectures.subject import Subject
from workers.contract.parts import AdapterRef
from workers.engine.adapter_kinds import rules_of
from workers.engine.backend import RefusedError
from workers.engine.hf.lora.plan import AdapterStep
from workers.engine.hf.lora.tokens import layers_apart
from workers.engine.hf.lora.weights import read_adapter
from workers.engine.hf.lora.wrapping import wrap_linears
from workers.engine.hf.model import load_model
from workers.engine.hf.settings import HfSettings
from workers.engine.spec import BackendName, EngineSpec


class Routed(nn.Module):
    """One layer for all tokens, one for some, one for each token's two halves, one for none."""

    def __init__(self) -> None:
        super().__init__()
        self.every, self.some, self.none = (nn.Linear(8, 8) for _ in range(3))
        self.halves = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.every(x)
        return self.some(y[:, 1:3]).sum() + self.halves(y.unflatten(-1, (2, 4))).sum()


def test_layers_that_see_other_rows_than_the_tokens_are_found() -> None:
    model = Routed()
    x = torch.ones(1, 5, 8)
    layers = wrap_linears(model, 4, AdapterStep(), lambda: model(x))
    assert layers_apart({**layers}, lambda: model(x), 5) == {"some", "halves"}


def test_an_adapter_on_such_a_layer_is_refused_by_its_name(tmp_path: Path) -> None:
    subject = Subject("llama", tmp_path)
    spec = EngineSpec(
        model_id="m",
        backend=BackendName.HF,
        listen="unix:/unused",
        model_path=str(subject.path),
        dtype="float32",
        device="cpu",
        max_loras=2,
    )
    loaded = load_model(spec, HfSettings())
    assert not loaded.unserved
    layers, rules = loaded.lora_layers, rules_of(BackendName.HF, 8)
    (adapter, _) = subject.adapters
    assert read_adapter(adapter, layers, rules, torch.float32).layers
    name = "model.layers.1.mlp.up_proj"
    with pytest.raises(RefusedError, match=f"{name} does not see every token of a batch"):
        read_adapter(adapter, layers, rules, torch.float32, unserved=frozenset({name}))


def test_adapters_behind_the_selection_of_logits_keep_to_their_own_tokens(tmp_path: Path) -> None:
    """On ModernBERT's layer before the output layer, and on the output layer itself, beside chunks
    of prompts whose logits nobody wants."""
    subject = Subject("modernbert-decoder", tmp_path)
    adapters: list[AdapterRef] = []
    for uid, use_dora in enumerate((False, True), 1):
        torch.manual_seed(uid)
        targets = ["lm_head.dense", "decoder", "q_proj"]
        config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, use_dora=use_dora)
        adapted = get_peft_model(subject.load(), config)
        with torch.no_grad():
            for name, weight in adapted.named_parameters():
                if "lora_A" in name or "lora_B" in name:
                    weight.normal_(0, 0.2)
        adapted.save_pretrained(str(tmp_path / f"adapter{uid}"))
        adapters.append(AdapterRef(f"adapter{uid}", uid, str(tmp_path / f"adapter{uid}")))
    description, answers = subject.answers(adapters)
    assert description.compatibility is None
    expected = subject.expected(adapters)
    assert answers == expected
    assert expected[0] != expected[1] != expected[2]
