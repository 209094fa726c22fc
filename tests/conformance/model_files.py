"""The bundled model, adapters for it, and what Hugging Face's model class answers with them."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, Qwen3ForCausalLM

from workers.contract.parts import AdapterRef

MODEL_PATH = Path(__file__).resolve().parents[2] / "deploy" / "model" / "tuneyard-mini"
_tokenizer: Any = AutoTokenizer.from_pretrained(MODEL_PATH)
EOS_ID: int = _tokenizer.eos_token_id
_CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
PROMPTS: tuple[list[int], ...] = tuple(
    _tokenizer.encode(_CHAT.format(text))
    for text in (
        "What is the capital of France?",
        "Tell me a story about a dog and a boat.",
        "My name is Stella. What sound does a cow make, and what is my name?",
    )
)
NUM_GREEDY = 24
_SURE_GAP = 1e-3
"""Batches of another shape round otherwise; a choice by less than this may fall either way."""
_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

KINDS: dict[str, dict[str, Any]] = {
    "pickled": {},
    "pissa": {"init_lora_weights": "pissa"},
    "scaled by the root": {"use_rslora": True},
    "own ranks": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}},
    "embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
    "magnitudes": {"use_dora": True},
}
"""Adapters that not every engine serves."""


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


def token_ids(text: str, *, marks: bool) -> list[int]:
    """`marks`: special tokens are recognised in the text."""
    return _tokenizer.encode(text, split_special_tokens=not marks)


def token(text: str) -> int:
    """The id of a text that is one token."""
    (token_id,) = _tokenizer.encode(text)
    return token_id


def blanks() -> list[int]:
    """Tokens that are nothing but white space."""
    return [i for i in range(len(_tokenizer)) if not _tokenizer.decode([i]).strip(" \t\r\n")]


def build(folder: Path) -> ModelFiles:
    adapters = {
        name: _adapter(folder / name, seed=number, rank=rank)
        for number, (name, rank) in enumerate(
            [("alpha", 8), ("beta", 16), ("gamma", 4), ("alpha-retrained", 8)], start=1
        )
    }
    adapters |= {
        name: _adapter(folder / name, seed=number, rank=8, **options)
        for number, (name, options) in enumerate(KINDS.items(), start=20)
    }
    references: dict[tuple[str, int], Reference] = {}
    for name in ("base", *adapters):
        model = _load()
        if name != "base":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                model = PeftModel.from_pretrained(model, adapters[name])
        for index, prompt in enumerate(PROMPTS):
            references[name, index] = _greedy(model.eval(), prompt)
    answers = {tuple(reference.ids) for reference in references.values()}
    assert len(answers) == len(references), "adapters must be told apart by their answers"
    _pickle(adapters["pickled"])
    adapters |= _bad_adapters(folder, adapters["alpha"])
    return ModelFiles(MODEL_PATH, adapters, references)


def _load() -> Any:
    return Qwen3ForCausalLM.from_pretrained(MODEL_PATH, dtype=torch.float32)


def _adapter(folder: Path, *, seed: int, rank: int, **options: Any) -> Path:
    model = _load()
    torch.manual_seed(seed)
    targets = {"target_modules": _TARGETS, **options}
    config = LoraConfig(r=rank, lora_alpha=2 * rank, task_type="CAUSAL_LM", **targets)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # peft's advice on tied embeddings
        peft = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_" in name:
                is_kept = "init_lora_weights" in options or "magnitude" in name
                kept = parameter if is_kept else 0.0
                parameter.copy_(kept + torch.randn_like(parameter) * 0.15)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        peft.save_pretrained(str(folder))
    return folder


def _pickle(folder: Path) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    torch.save(weights, folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()


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


def _bad_adapters(folder: Path, good: Path) -> dict[str, Path]:
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
        "wrong-rank": _adapter(folder / "wrong-rank", seed=9, rank=32),
        "lying-rank": write("lying-rank", weights, r=4),
        "wrong-shape": write("wrong-shape", smaller),
        "dora": write("dora", weights, use_dora=True),
        "saves-modules": write("saves-modules", weights, modules_to_save=["lm_head"]),
        "no-weights": write("no-weights", None),
        "missing": folder / "missing",
    }


def use_one_thread() -> None:
    """Many runs share a machine, and float sums depend on how they are split."""
    torch.set_num_threads(1)
