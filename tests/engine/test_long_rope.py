"""Models with two sets of angles, for short and for long sequences, keep to one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Phi3Config

from workers.models.rope import fix_regime

from . import models

_ORIGINAL, _LONGEST = 32, 256
_SHORT_FACTOR, _LONG_FACTOR = [1.0] * 8, [1.0 + n for n in range(8)]
_WORDS = "The quick brown fox jumps over the lazy dog. "
_GREEDY: dict[str, Any] = {"temperature": 0.0, "ignore_eos": True}


def _config(short: list[float], long: list[float]) -> Phi3Config:
    return Phi3Config(
        vocab_size=448,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=_LONGEST,
        original_max_position_embeddings=_ORIGINAL,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": short,
            "long_factor": long,
            "original_max_position_embeddings": _ORIGINAL,
            "factor": _LONGEST / _ORIGINAL,
        },
        eos_token_id=models.tokenizer().eos_token_id,
        bos_token_id=None,
        pad_token_id=None,
        initializer_range=0.2,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phi3")
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(
        _config(_SHORT_FACTOR, _LONG_FACTOR), dtype=torch.float32
    )
    model.save_pretrained(folder)
    models.tokenizer().save_pretrained(folder)
    return folder


def _expected(folder: Path, prompt: str, factor: list[float]) -> list[int]:
    """Of transformers' model, with this set of angles for all lengths."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, config=_config(factor, factor), dtype=torch.float32
    )
    return models.greedy(model.eval(), prompt, 12)


async def test_a_short_prompt_answers_the_same_beside_a_long_one(
    folder: Path, start_worker: Any, connect: Any
) -> None:
    worker = start_worker(backend="hf", model_path=str(folder), dtype="float32", device="cpu")
    client = await connect(worker)
    short = "The quick"
    expected = _expected(folder, short, _LONG_FACTOR)
    assert expected != _expected(folder, short, _SHORT_FACTOR)
    alone = await client.generate(short, max_tokens=12, **_GREEDY)
    assert alone.ids == expected
    company = [client.start(_WORDS * 3 + str(n), max_tokens=60, **_GREEDY) for n in range(2)]
    beside = [await client.generate(short, max_tokens=12, **_GREEDY) for _ in range(3)]
    assert [answer.ids for answer in beside] == [expected] * 3
    for request in company:
        await client.finish(request)


async def test_a_long_prompts_beginning_is_of_use_to_a_short_one(
    folder: Path, start_worker: Any, connect: Any
) -> None:
    worker = start_worker(backend="hf", model_path=str(folder), dtype="float32", device="cpu")
    client = await connect(worker)
    long = await client.generate(_WORDS * 4, max_tokens=12, **_GREEDY)
    short = await client.generate(_WORDS * 2, max_tokens=4, **_GREEDY)
    assert short.end.cached_tokens > 0
    assert long.ids == _expected(folder, _WORDS * 4, _LONG_FACTOR)
    assert short.ids == _expected(folder, _WORDS * 2, _LONG_FACTOR)[:4]


async def test_an_engine_for_short_prompts_has_the_short_regime(
    folder: Path, start_worker: Any, connect: Any
) -> None:
    spec = {"model_path": str(folder), "dtype": "float32", "device": "cpu"}
    worker = start_worker(backend="hf", max_model_len=_ORIGINAL, **spec)
    client = await connect(worker)
    answer = await client.generate("The quick", max_tokens=12, **_GREEDY)
    assert answer.ids == models.greedy(models.load(folder), "The quick", 12)
    assert '"regime": "short"' in worker.log_path.read_text()


def test_each_set_of_angles_of_a_model_is_fixed() -> None:
    config = _config(_SHORT_FACTOR, _LONG_FACTOR)
    own = dict(config.rope_parameters)
    config.rope_parameters = {
        "full_attention": own | {"short_mscale": 1.0, "long_mscale": 1.5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    }
    assert fix_regime(config, _LONGEST) == "long"
    full = config.rope_parameters["full_attention"]
    assert full["short_factor"] == full["long_factor"] == _LONG_FACTOR
    assert full["short_mscale"] == full["long_mscale"] == 1.5
    assert fix_regime(_plain(), _LONGEST) is None


def _plain() -> Phi3Config:
    return Phi3Config(hidden_size=64, num_attention_heads=4)
