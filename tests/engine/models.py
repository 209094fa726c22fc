"""Tiny random models with a real byte-level BPE tokenizer, and adapters for them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from workers.contract.parts import AdapterRef

# Tiny models gain nothing from more, and lose much while another process has the other processor.
torch.set_num_threads(1)

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_TEXT = [
    "The quick brown fox jumps over the lazy dog. Grüße aus München, 你好世界, привет мир!",
    '{"name": "Ada", "age": 36, "tags": ["one", "two"], "ok": true, "none": null}',
    "0123456789 + - * / = yes no maybe red green blue",
] * 4


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_TEXT, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )


def make_model(folder: Path, kind: str = "qwen3", **changes: Any) -> Path:
    """Saves a random model whose greedy output is not one token over and over."""
    torch.manual_seed(7)
    sizes: dict[str, Any] = {
        "vocab_size": 448,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "eos_token_id": tokenizer().eos_token_id,
        "bos_token_id": None,
        "pad_token_id": None,
        **changes,
    }
    config = {"qwen3": Qwen3Config, "llama": LlamaConfig}[kind](**sizes)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def make_adapter(model_folder: Path, folder: Path, uid: int, **changes: Any) -> AdapterRef:
    """A LoRA adapter strong enough to change greedy output."""
    torch.manual_seed(1000 + uid)
    options: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **changes}
    model = get_peft_model(load(model_folder), LoraConfig(task_type="CAUSAL_LM", **options))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(0, 0.12)
    model.save_pretrained(folder)
    return AdapterRef(folder.name, uid, str(folder))


def merged(model_folder: Path, adapter: AdapterRef) -> Any:
    return PeftModel.from_pretrained(load(model_folder), adapter.path).merge_and_unload().eval()


def greedy(model: Any, prompt: str, num_tokens: int) -> list[int]:
    """What transformers' own `generate()` gives, one sequence at a time."""
    ids = torch.tensor([tokenizer().encode(prompt)])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=num_tokens,
        min_new_tokens=num_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return out[0, ids.shape[1] :].tolist()
