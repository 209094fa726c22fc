"""One family under test: a tiny model, adapters for it, and what was made of them."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.architectures.families import tiny_config
from tests.engine import models
from workers.contract.hello import Capability
from workers.contract.parts import AdapterRef, Sampling
from workers.contract.training import Completed, TrainEvent, TrainFailed, TrainSpec
from workers.engine.backend import Description, Output, RefusedError, Work
from workers.engine.hf.backend import create
from workers.engine.spec import BackendName, EngineSpec
from workers.models.layers import is_linear
from workers.trainer.run import run
from workers.trainer.stopping import StopRequest

NUM_TOKENS = 8
PROMPTS = tuple(
    [(7 * n + 13 * k + 5) % 440 + 3 for n in range(size)] for k, size in ((0, 29), (1, 5))
)
"""Longer than a window, and shorter."""
_PEFT_REFUSES = frozenset({"falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"})
"""To adapt the `out_proj` of."""
_GUARD_S = 120.0
_WEIGHT_STD = 0.15
"""So that greedy answers are not one token over and over, nor hang by a hair."""


@dataclass(slots=True)
class _Receiver:
    ids: dict[int, list[int]] = field(default_factory=dict[int, list[int]])
    ends: dict[int, asyncio.Future[None]] = field(default_factory=dict)

    def deliver(self, outputs: Any) -> None:
        for output in outputs:
            self._take(output)

    def _take(self, output: Output) -> None:
        self.ids.setdefault(output.key, []).extend(output.token_ids)
        if output.ended is not None:
            if isinstance(output.ended, RefusedError):
                self.ends[output.key].set_exception(output.ended)
            else:
                self.ends[output.key].set_result(None)

    def adapters_changed(self) -> None:
        pass

    def died(self, reason: str) -> None:
        for end in self.ends.values():
            if not end.done():
                end.set_exception(RuntimeError(f"the engine died: {reason}"))


class Subject:
    def __init__(self, family: str, folder: Path) -> None:
        self.family = family
        self.folder = folder
        self.path = folder / "model"
        torch.manual_seed(11)
        model: Any = AutoModelForCausalLM.from_config(tiny_config(family), dtype=torch.float32)
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.data.normal_(0, _WEIGHT_STD)
        model.save_pretrained(self.path)
        models.tokenizer().save_pretrained(self.path)

    def load(self) -> Any:
        return AutoModelForCausalLM.from_pretrained(self.path, dtype=torch.float32).eval()

    @cached_property
    def adapters(self) -> list[AdapterRef]:
        """Of every linear layer but the output layer, strong enough to change answers; none where
        there is no such layer."""
        found: list[AdapterRef] = []
        for uid, name in enumerate(("one", "two"), 1):
            base = self.load()
            torch.manual_seed(100 + uid)
            targets = _targets(base)
            if not targets:
                return []
            config = LoraConfig(r=2 * uid, lora_alpha=8, target_modules=targets)
            adapted = get_peft_model(base, config)
            with torch.no_grad():
                for weight_name, weight in adapted.named_parameters():
                    if "lora_" in weight_name:
                        weight.normal_(0, 0.2)
            adapted.save_pretrained(str(self.folder / name))
            found.append(AdapterRef(name, uid, str(self.folder / name)))
        return found

    def train(self, *, packing: bool = False) -> Completed | TrainFailed:
        """A LoRA job of a few steps."""
        rows = [{"text": f"number {n} hums, and number {n + 1} sings"} for n in range(8)]
        file = self.folder / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        output_dir = self.folder / f"run-{packing}"
        spec = msgspec.convert(
            {
                "job_id": "ftjob-test",
                "output_dir": str(output_dir),
                "model": {"model_name_or_path": str(self.path), "device": "cpu"},
                "data": {"train_file": str(file), "cutoff_len": 64, "packing": packing},
                "finetuning": {"stage": "pt"},
                "training": {
                    "max_steps": 1 if packing else 2,
                    "learning_rate": 0.1,
                    "per_device_train_batch_size": 2,
                    "save_steps": 1000,
                },
            },
            TrainSpec,
        )
        run(spec, StopRequest())
        lines = (output_dir / "events.ndjson").read_bytes().splitlines()
        last = msgspec.json.decode(lines[-1], type=TrainEvent)
        assert isinstance(last, Completed | TrainFailed)
        return last

    def expected(self, adapters: Sequence[AdapterRef] = ()) -> list[list[list[int]]]:
        """By transformers' own `generate`: of the base, and with each adapter through peft."""
        models = [self.load(), *(self._adapted(adapter) for adapter in adapters)]
        return [[_greedy(model, prompt) for prompt in PROMPTS] for model in models]

    def _adapted(self, adapter: AdapterRef) -> Any:
        """Where peft warns that it leaves out weights of the files, these are added by hand."""
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Found missing adapter keys")
            try:
                return PeftModel.from_pretrained(self.load(), adapter.path, adapter.name).eval()
            except UserWarning:
                return merge_by_hand(self.load(), adapter)

    def answers(
        self, adapters: Sequence[AdapterRef] = (), **spec: Any
    ) -> tuple[Description, list[list[list[int]]]]:
        """Of every prompt by the base and every adapter, all at once in one engine; of the base
        alone if the engine serves no adapters."""
        return asyncio.run(self._answer(adapters, spec))

    async def _answer(
        self, adapters: Sequence[AdapterRef], changes: dict[str, Any]
    ) -> tuple[Description, list[list[list[int]]]]:
        spec = EngineSpec(
            model_id=self.family,
            backend=BackendName.HF,
            listen="unix:/unused",
            model_path=str(self.path),
            dtype="float32",
            device="cpu",
            max_loras=3,
            max_lora_rank=8,
            settings={"prefill_tokens_per_step": 16},
            **changes,
        )
        backend, _ = create(spec)
        receiver = _Receiver()
        description = await backend.start(receiver)
        loop = asyncio.get_running_loop()
        served = adapters if Capability.LORA in description.capabilities else ()
        who = [None, *served]
        keys = range(len(who) * len(PROMPTS))
        try:
            receiver.ends = {key: loop.create_future() for key in keys}
            for key in keys:
                which, prompt = divmod(key, len(PROMPTS))
                work = Work(
                    key,
                    PROMPTS[prompt],
                    Sampling(temperature=0),
                    NUM_TOKENS,
                    frozenset(),
                    who[which],
                )
                await backend.submit(work)
            async with asyncio.timeout(_GUARD_S):
                await asyncio.gather(*receiver.ends.values())
        finally:
            await backend.close()
        ids = [receiver.ids[key] for key in keys]
        size = len(PROMPTS)
        return description, [ids[at : at + size] for at in range(0, len(ids), size)]


def merge_by_hand(model: Any, adapter: AdapterRef) -> Any:
    """The stock model with each layer's factors, found by the layer's name, in its weights."""
    folder = Path(adapter.path)
    config = json.loads((folder / "adapter_config.json").read_text())
    weights = load_file(folder / "adapter_model.safetensors")
    for name, factor in weights.items():
        layer, is_a, _ = name.removeprefix("base_model.model.").partition(".lora_A.")
        if is_a:
            product = weights[name.replace("lora_A", "lora_B")] @ factor
            weight = model.get_submodule(layer).weight
            weight.data += product * config["lora_alpha"] / config["r"]
    return model


def _targets(base: Any) -> list[str]:
    """Linear layers of the decoder but its output layer. peft adapts fused experts where it meets
    the names that their layers once had."""
    decoder = base.get_decoder() if hasattr(base.config, "vision_config") else base
    inside, output_layer = set(decoder.modules()), base.get_output_embeddings()
    linear = [
        name
        for name, module in base.named_modules()
        if is_linear(module) and module in inside and module is not output_layer
    ]
    has_experts = any(name.endswith("experts") for name, _ in base.named_modules())
    fused = ("gate_proj", "up_proj", "down_proj", "gate", "w1", "w2", "w3") if has_experts else ()
    if base.config.model_type in _PEFT_REFUSES:
        fused += ("out_proj",)
    return [name for name in linear if not name.endswith(fused)]


def _greedy(model: Any, prompt: list[int]) -> list[int]:
    ids = torch.tensor([prompt])
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NUM_TOKENS,
        min_new_tokens=NUM_TOKENS,
        do_sample=False,
        eos_token_id=None,
        forced_eos_token_id=None,
        pad_token_id=0,
    )
    return out[0, len(prompt) :].tolist()
