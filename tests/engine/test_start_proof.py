"""What the engine finds out of a model at start: masks, sinks, and whether it can be batched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.architectures.families import WINDOW, tiny_config
from tests.architectures.subject import Subject
from workers.engine.hf.attention import Sight
from workers.engine.hf.loaded import LoadedModel
from workers.engine.hf.model import load_model
from workers.engine.hf.proof import prove_batching
from workers.engine.hf.recording import NotBatchedError, read_mask
from workers.engine.hf.settings import HfSettings
from workers.engine.spec import BackendName, EngineSpec
from workers.models.narrowing import NARROWEST, narrowed

_CONTEXT = 16384


def _load(subject: Subject, **changes: Any) -> LoadedModel:
    if changes:
        file = subject.path / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    spec = EngineSpec(
        model_id="m",
        backend=BackendName.HF,
        listen="unix:/unused",
        model_path=str(subject.path),
        dtype="float32",
        device="cpu",
        max_loras=0,
    )
    return load_model(spec, HfSettings())


def _sights(loaded: LoadedModel) -> list[Sight]:
    calls = loaded.attention.calls
    return [calls[layer].sight for layer in sorted(calls)]


@pytest.mark.parametrize(
    ("family", "changes", "expected"),
    [
        ("llama", {}, [Sight()] * 4),
        ("mistral", {"sliding_window": 4096}, [Sight(window=4096)] * 4),
        ("gemma2", {"sliding_window": 4096}, [Sight(window=4096), Sight()] * 2),
        ("gpt_oss", {"sliding_window": 128}, [Sight(window=128), Sight()] * 2),
        ("cohere2", {"sliding_window": 4096}, [Sight(window=4096), Sight()] * 2),
        (
            "llama4_text",
            {"attention_chunk_size": 8192},
            [Sight(chunk=8192), Sight()] * 2,
        ),
    ],
)
def test_what_each_layer_sees_is_read_from_a_short_prompt(
    tmp_path: Path, family: str, changes: dict[str, int], expected: list[Sight]
) -> None:
    """And the model has its own widths again afterwards."""
    loaded = _load(Subject(family, tmp_path), max_position_embeddings=_CONTEXT, **changes)
    assert loaded.compatibility is None
    assert _sights(loaded) == expected
    for name, width in changes.items():
        assert getattr(loaded.model.config, name) == width


def test_a_window_that_cannot_be_narrowed_is_not_taken_on_trust(tmp_path: Path) -> None:
    """Its config computes it, so that every prompt at start would lie within it."""
    subject = Subject("mistral", tmp_path)
    model = subject.load()

    class Fixed(type(model.config)):
        sliding_window = property(lambda self: 4096, lambda self, value: None)

    model.config.__dict__.pop("sliding_window")
    model.config.__class__ = Fixed
    with pytest.raises(NotBatchedError, match="window of 4096 tokens"):
        prove_batching(model, 128, None, verify=True)
    assert model.config._attn_implementation == "sdpa"
    assert torch.isfinite(model(input_ids=torch.tensor([[3, 4]])).logits).all()


def test_windows_are_told_apart_while_they_are_narrow() -> None:
    model = torch.nn.Module()
    model.one, model.two, model.same = (torch.nn.Module() for _ in range(3))
    model.one.sliding_window, model.two.sliding_window = 4096, 512
    model.same.sliding_window = 4096
    with narrowed(model) as wide:
        narrow = [m.sliding_window for m in (model.one, model.two, model.same)]
        assert narrow[0] == narrow[2] != narrow[1]
        assert {wide[narrow[0]], wide[narrow[1]]} == {4096, 512}
        assert all(NARROWEST <= width < 2 * NARROWEST for width in narrow)
    assert (model.one.sliding_window, model.two.sliding_window) == (4096, 512)


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("deepseek_v32", {"index_topk": 2048}, "its cache holds more than keys and values"),
        ("qwen3_next", {}, "its cache holds more than keys and values"),
        ("bloom", {}, "does not go through transformers' interface"),
        ("doge", {}, "its mask weighs tokens"),
        ("bart", {}, "in a batch its logits are not those"),
    ],
)
def test_what_our_attention_cannot_do_is_never_batched(
    tmp_path: Path, family: str, changes: dict[str, int], reason: str
) -> None:
    """However short the prompts are in which it does not show."""
    loaded = _load(Subject(family, tmp_path), **changes)
    assert loaded.compatibility is not None
    assert reason in loaded.compatibility


@pytest.mark.parametrize("kept", [torch.tensor([[1, 0, 1], [1, 1, 0], [1, 0, 1]]), torch.eye(3)])
def test_a_mask_of_another_kind_is_not_taken_for_one_of_ours(kept: torch.Tensor) -> None:
    with pytest.raises(NotBatchedError, match="neither causal nor a window nor chunks"):
        read_mask(kept.bool().flip(0)[None, None])


def test_models_without_sdpa_answer_as_transformers_does(tmp_path: Path) -> None:
    """Soft-capped scores and sinks, beyond their windows."""
    for family in ("gemma2", "gpt_oss"):
        subject = Subject(family, tmp_path / family)
        assert tiny_config(family).sliding_window == WINDOW
        description, answers = subject.answers()
        assert description.compatibility is None
        assert answers == subject.expected()


def test_mxfp4_weights_are_served_dequantised_on_a_cpu(tmp_path: Path) -> None:
    subject = Subject("gpt_oss", tmp_path)
    _quantize_experts(subject.path)
    description, answers = subject.answers()
    assert description.compatibility is None
    assert answers == subject.expected()


def _quantize_experts(path: Path) -> None:
    """Random blocks and scales in the format of gpt-oss's own files."""
    random = torch.Generator().manual_seed(0)
    weights: dict[str, torch.Tensor] = {}
    for name, weight in load_file(path / "model.safetensors").items():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            weights[name] = weight.to(torch.bfloat16)
            continue
        experts, inputs, outputs = weight.shape
        blocks, scales = (experts, outputs, inputs // 32, 16), (experts, outputs, inputs // 32)
        weights[f"{name}_blocks"] = _bytes(0, 256, blocks, random)
        weights[f"{name}_scales"] = _bytes(122, 126, scales, random)
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((path / "config.json").read_text())
    kept = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens"]
    config["quantization_config"] = {
        "quant_method": "mxfp4",
        "modules_to_not_convert": [*kept, "lm_head"],
    }
    (path / "config.json").write_text(json.dumps(config))


def _bytes(low: int, high: int, shape: tuple[int, ...], random: torch.Generator) -> torch.Tensor:
    return torch.randint(low, high, shape, generator=random, dtype=torch.uint8)
