"""A tiny random Qwen3 with a byte-level tokenizer, and runs of the trainer on it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from tests.forked import ForkedWorker
from workers.contract.training import TrainEvent, TrainSpec
from workers.trainer.run import run
from workers.trainer.stopping import StopRequest

# Tiny models gain nothing from more, and lose much while another process has the other processor.
torch.set_num_threads(1)

CHATML = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def build_tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHATML,
    )


def build_model(vocab_size: int, seed: int = 0, **overrides: Any) -> Qwen3ForCausalLM:
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "eos_token_id": 258,
        "pad_token_id": 256,
        "dtype": "float32",
    }
    return Qwen3ForCausalLM(Qwen3Config(vocab_size=vocab_size, **{**sizes, **overrides}))


@pytest.fixture(scope="session")
def base(tiny_model: Path) -> Path:
    """A model directory."""
    return tiny_model


def chat(question: str, answer: str, **message: Any) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer, **message},
        ]
    }


CHATS = [
    chat(f"What is the sound of number {n}?", "It hums. " * (1 + n % 3) + f"{n}") for n in range(20)
]


@dataclass
class Workspace:
    """A run's directory and the files beside it."""

    folder: Path
    base: Path
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def output_dir(self) -> Path:
        return self.folder / "run"

    def write(self, name: str, rows: Sequence[object]) -> str:
        path = self.folder / name
        lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        path.write_text("\n".join(lines) + "\n")
        return str(path)

    def spec(
        self,
        rows: Sequence[object] = CHATS,
        *,
        output_dir: str = "run",
        model: dict[str, Any] | None = None,
        data: dict[str, Any] | None = None,
        finetuning: dict[str, Any] | None = None,
        ppo: dict[str, Any] | None = None,
        **training: Any,
    ) -> TrainSpec:
        defaults = {
            "num_train_epochs": 2,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
        }
        content = {
            "job_id": "ftjob-test",
            "output_dir": str(self.folder / output_dir),
            "model": {"model_name_or_path": str(self.base), "device": "cpu", **(model or {})},
            "data": {"train_file": self.write("train.jsonl", rows), **(data or {})},
            "finetuning": finetuning or {},
            "training": {**defaults, **training},
            "ppo": ppo or {},
        }
        return msgspec.convert(content, TrainSpec)


@pytest.fixture
def workspace(tmp_path: Path, base: Path) -> Workspace:
    return Workspace(tmp_path, base)


def events_of(spec: TrainSpec) -> list[TrainEvent]:
    content = (Path(spec.output_dir) / "events.ndjson").read_bytes()
    return [msgspec.json.decode(line, type=TrainEvent) for line in content.splitlines()]


def train(spec: TrainSpec) -> list[TrainEvent]:
    """Runs in this process; the events, heartbeats apart."""
    run(spec, StopRequest())
    return events_of(spec)


def start(spec: TrainSpec, *arguments: str, parent_fd: int | None = None) -> ForkedWorker:
    """Runs in a process of its own."""
    path = Path(spec.output_dir).with_suffix(".json")
    path.write_bytes(msgspec.json.encode(spec))
    return ForkedWorker("workers.trainer", [str(path), *arguments], log_of(spec), parent_fd)


def log_of(spec: TrainSpec) -> Path:
    return Path(spec.output_dir).with_suffix(".log")
