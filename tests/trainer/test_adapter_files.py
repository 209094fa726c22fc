"""An adapter's files come back whole, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.architectures.subject import PROMPTS, Subject, merge_by_hand
from workers.contract.parameters import FinetuningArguments
from workers.contract.parts import AdapterRef
from workers.contract.training import Completed
from workers.engine.hf.preparing import merge_adapters
from workers.engine.hf.settings import HfSettings
from workers.engine.spec import SpecError
from workers.trainer.failures import InvalidHyperparameters
from workers.trainer.lora import load_lora, merge_lora


@torch.inference_mode()
def _logits(model: Any) -> torch.Tensor:
    return model.eval()(input_ids=torch.tensor([PROMPTS[0]]), use_cache=False).logits


def _trained(subject: Subject) -> Path:
    done = subject.train()
    assert isinstance(done, Completed)
    return Path(done.path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["laguna", "inkling2_text"])
def test_weights_that_peft_gives_other_names_are_loaded(tmp_path: Path, family: str) -> None:
    """transformers' rules for old names fit some names of today: peft alone drops those weights."""
    subject = Subject(family, tmp_path)
    path = _trained(subject)
    wanted = _logits(merge_by_hand(subject.load(), AdapterRef("a", 1, str(path))))
    assert not torch.allclose(wanted, _logits(subject.load()), atol=1e-2)
    settings = HfSettings(merged_adapters=str(path))
    for model in (
        load_lora(subject.load(), path, FinetuningArguments()),
        merge_lora(subject.load(), path),
        merge_adapters(subject.load(), settings),
    ):
        assert torch.allclose(_logits(model), wanted, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_with_missing_weights_is_not_gone_on_from(tmp_path: Path) -> None:
    subject = Subject("llama", tmp_path)
    path = _trained(subject)
    file = path / "adapter_model.safetensors"
    weights = load_file(file)
    for name in [name for name in weights if "layers.2.mlp.up_proj" in name]:
        del weights[name]
    save_file(weights, file, metadata={"format": "pt"})
    said = "files lack 2 weights, as those of model.layers.2.mlp.up_proj"
    with pytest.raises(InvalidHyperparameters, match=said):
        load_lora(subject.load(), path, FinetuningArguments())
    with pytest.raises(InvalidHyperparameters, match=said):
        merge_lora(subject.load(), path)
    with pytest.raises(SpecError, match=said):
        merge_adapters(subject.load(), HfSettings(merged_adapters=str(path)))
