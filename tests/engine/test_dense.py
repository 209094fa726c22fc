"""The fast forward pass gives what the stock model gives, and keeps off models it does not know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from workers.engine.hf.dense import probe_decoder
from workers.engine.hf.model import LoadedModel, load_model
from workers.engine.hf.settings import HfSettings
from workers.engine.spec import BackendName, EngineSpec

SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "eos_token_id": None,
    "bos_token_id": None,
    "pad_token_id": None,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def _load(config: PreTrainedConfig, folder: Path, dtype: str = "float32") -> LoadedModel:
    torch.manual_seed(3)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    spec = EngineSpec(
        model_id="m",
        backend=BackendName.HF,
        listen="unix:/unused",
        model_path=str(folder),
        dtype=dtype,
        device="cpu",
        max_loras=2,
        max_lora_rank=4,
    )
    return load_model(spec, HfSettings())


@pytest.mark.parametrize(
    "config",
    [
        Qwen3Config(**SIZES, head_dim=16, tie_word_embeddings=True),
        Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=7, max_window_layers=1),
        LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True, rope_parameters=LLAMA3_ROPE),
        MistralConfig(**SIZES, sliding_window=5),
    ],
    ids=lambda config: config.model_type,
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_gives_the_stock_models_logits(
    config: PreTrainedConfig, dtype: str, tmp_path: Path
) -> None:
    loaded = _load(config, tmp_path, dtype)
    stock = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=loaded.dtype).eval()
    ids = torch.randint(0, 300, (40,))
    with torch.inference_mode():
        expected = stock(ids[None]).logits[0].float()
    assert loaded.decoder is not None
    found = probe_decoder(loaded.decoder, loaded.attention, ids, loaded.dtype)
    spread = float(expected.max() - expected.min())
    tolerance = 1e-5 if dtype == "float32" else 0.05
    assert float((found - expected).abs().max()) < tolerance * spread


@pytest.mark.parametrize(
    "config",
    [
        Phi3Config(**SIZES),
        Qwen3Config(**SIZES, head_dim=16, hidden_act="gelu"),
        LlamaConfig(
            **SIZES, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
        ),
    ],
    ids=["own layers", "other activation", "angles by length"],
)
def test_it_leaves_other_models_to_transformers(config: PreTrainedConfig, tmp_path: Path) -> None:
    assert _load(config, tmp_path).decoder is None
