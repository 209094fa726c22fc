"""A tiny random Qwen3 model with byte-level tokens, adapters for it, and what Hugging Face's model
class answers with them.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from workers.contract.messages import AdapterRef

VOCAB_SIZE = 512
PROMPTS = ([10, 11, 12], [70, 80, 90, 100, 110], list(range(20, 60)))
NUM_GREEDY = 24
_SURE_GAP = 1e-3
"""Batches of another shape round otherwise; a choice by less than this may fall either way."""
_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True, slots=True)
class Reference:
    """What the model answers greedily, and with which log-probabilities."""

    ids: list[int]
    logprobs: list[float]
    prompt_logprobs: list[float]
    num_sure: int
    """Tokens before the first whose two best candidates nearly tie: these must be equal."""

    @property
    def sure_ids(self) -> list[int]:
        return self.ids[: self.num_sure]


@dataclass(frozen=True, slots=True)
class ModelFiles:
    path: Path
    adapters: dict[str, Path]
    references: dict[tuple[str, int], Reference]
    """By adapter name (or `base`) and index of the prompt."""

    def ref(self, name: str, uid: int) -> AdapterRef:
        return AdapterRef(name, uid, str(self.adapters[name]))


def build(folder: Path) -> ModelFiles:
    torch.manual_seed(0)
    model_path = folder / "model"
    _tokenizer().save_pretrained(model_path)
    config = Qwen3Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    Qwen3ForCausalLM(config).save_pretrained(model_path)
    adapters = {
        name: _adapter(model_path, folder / name, seed=number, rank=rank)
        for number, (name, rank) in enumerate(
            [("alpha", 8), ("beta", 16), ("gamma", 4), ("alpha-retrained", 8)], start=1
        )
    }
    references: dict[tuple[str, int], Reference] = {}
    for name in ("base", *adapters):
        model: Any = Qwen3ForCausalLM.from_pretrained(model_path, dtype=torch.float32)
        if name != "base":
            model = PeftModel.from_pretrained(model, adapters[name]).merge_and_unload()
        for index, prompt in enumerate(PROMPTS):
            references[name, index] = _greedy(model.eval(), prompt)
    adapters |= _bad_adapters(folder, adapters["alpha"], model_path)
    return ModelFiles(model_path, adapters, references)


def _tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
    backend.decoder = decoders.ByteLevel()  # pyright: ignore
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    )
    backend.train_from_iterator(["the quick brown fox jumps over the lazy dog 0123456789"], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )


def _adapter(model_path: Path, folder: Path, *, seed: int, rank: int) -> Path:
    model = Qwen3ForCausalLM.from_pretrained(model_path)
    torch.manual_seed(seed)
    peft = get_peft_model(
        model,
        LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=_TARGETS, task_type="CAUSAL_LM"),
    )
    for name, parameter in peft.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    peft.save_pretrained(str(folder))
    return folder


def _greedy(model: Any, prompt: list[int]) -> Reference:
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(NUM_GREEDY):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        scores = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    own = [float(scores[i - 1, ids[i]]) for i in range(1, len(ids))]
    split = len(prompt) - 1
    best = scores.topk(2).values
    gaps = (best[:, 0] - best[:, 1])[split : len(ids) - 1].tolist()
    sure = next((i for i, gap in enumerate(gaps) if gap < _SURE_GAP), len(gaps))
    assert sure >= 8, "the model's weights were drawn badly"
    return Reference(ids[len(prompt) :], own[split:], own[:split], sure)


def _bad_adapters(folder: Path, good: Path, model_path: Path) -> dict[str, Path]:
    """Adapters that no engine may serve, each for a reason of its own."""
    weights = load_file(good / "adapter_model.safetensors")
    config = json.loads((good / "adapter_config.json").read_text())

    def write(name: str, tensors: dict[str, Any] | bytes | None, **changes: Any) -> Path:
        target = folder / name
        target.mkdir()
        (target / "adapter_config.json").write_text(json.dumps(config | changes))
        file = target / "adapter_model.safetensors"
        if isinstance(tensors, bytes):
            file.write_bytes(tensors)
        elif tensors is not None:
            save_file(tensors, file)
        return target

    raw = (good / "adapter_model.safetensors").read_bytes()
    smaller = {
        n: t[:, : t.shape[1] // 2].contiguous() if "lora_A" in n else t for n, t in weights.items()
    }
    return {
        "corrupt": write("corrupt", raw[: len(raw) // 2]),
        "wrong-rank": _adapter(model_path, folder / "wrong-rank", seed=9, rank=32),
        "lying-rank": write("lying-rank", weights, r=4),
        "wrong-shape": write("wrong-shape", smaller),
        "dora": write("dora", weights, use_dora=True),
        "saves-modules": write("saves-modules", weights, modules_to_save=["lm_head"]),
        "no-weights": write("no-weights", None),
        "missing": folder / "missing",
    }


def save_environment() -> None:
    """One thread: many runs share a machine, and float sums depend on how they are split."""
    torch.set_num_threads(1)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
