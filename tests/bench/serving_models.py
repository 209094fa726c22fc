"""Models for the serving benchmark whose answers never end by themselves.

Servers differ in whether a caller can forbid the end of an answer, so the model does: the output
rows of all tokens that are special, or no plain text of their own, are zero. Some other logit is
always above zero, so a greedy answer has exactly as many tokens as were asked for, and each of
them is text that can be streamed at once.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config

from server.config import BUNDLED_MODEL
from tests.bench.bench_engine import MEDIUM

BUNDLED, RANDOM = "tuneyard-mini", "random-125m"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def build(name: str, folder: Path) -> Path:
    model = _bundled() if name == BUNDLED else _random()
    tokenizer: Any = AutoTokenizer.from_pretrained(BUNDLED_MODEL)
    _silence(model, tokenizer)
    path = folder / name
    model.save_pretrained(path)
    for file in _TOKENIZER_FILES:
        shutil.copy(BUNDLED_MODEL / file, path / file)
    end = tokenizer.eos_token_id
    greedy = {"do_sample": False, "eos_token_id": [end], "pad_token_id": tokenizer.pad_token_id}
    (path / "generation_config.json").write_text(json.dumps(greedy))
    return path


def _bundled() -> Any:
    return AutoModelForCausalLM.from_pretrained(BUNDLED_MODEL, dtype=torch.bfloat16)


def _random() -> Any:
    torch.manual_seed(7)
    sizes: dict[str, Any] = {**MEDIUM, "eos_token_id": None, "bos_token_id": None}
    return AutoModelForCausalLM.from_config(Qwen3Config(**sizes), dtype=torch.bfloat16)


def _silence(model: Any, tokenizer: Any) -> None:
    output = model.get_output_embeddings().weight
    spoken = [
        token_id
        for token_id in range(len(tokenizer))
        if token_id not in tokenizer.added_tokens_decoder
        and _is_plain(tokenizer.decode([token_id]))
    ]
    silent = torch.ones(output.shape[0], dtype=torch.bool)
    silent[spoken] = False
    with torch.no_grad():
        output[silent] = 0


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and '"' not in text and "\\" not in text
