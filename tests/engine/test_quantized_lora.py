"""Adapters on weights in 8 and 4 bits: PEFT's answers on the same weights, in any company."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from workers.contract.parts import AdapterRef
from workers.engine.adapter_kinds import AdapterRules, rules_of
from workers.engine.backend import RefusedError
from workers.engine.hf.lora.places import AdapterPlaces
from workers.engine.hf.lora.plan import plan_adapters
from workers.engine.hf.lora.weights import read_adapter
from workers.engine.hf.model import load_model
from workers.engine.hf.settings import HfSettings
from workers.engine.spec import BackendName, EngineSpec, read_settings

from . import models
from .conftest import WorkerProcess

pytest.importorskip("bitsandbytes")

PROMPT = "The quick brown fox"
NUM_TOKENS = 6
IDS = torch.arange(3, 40)[None]
FOUR_BITS: dict[str, Any] = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": torch.float32,
}


class Zoo:
    def __init__(self, folder: Path) -> None:
        self.model = models.make_model(folder / "model")
        few: dict[str, Any] = {"r": 8, "target_modules": ["q_proj", "v_proj"]}
        self.adapters = [
            models.make_adapter(self.model, folder / "one", 1),
            models.make_adapter(self.model, folder / "two", 2, **few),
        ]

    def stock(self, theirs: dict[str, Any]) -> Any:
        return AutoModelForCausalLM.from_pretrained(
            self.model,
            dtype=torch.float32,
            quantization_config=BitsAndBytesConfig(**theirs),
            device_map={"": "cpu"},
        ).eval()


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return Zoo(tmp_path_factory.mktemp("zoo"))


@pytest.mark.parametrize(
    ("bits", "theirs"), [(8, {"load_in_8bit": True}), (4, FOUR_BITS)], ids=["int8", "nf4"]
)
@torch.inference_mode()
def test_logits_on_quantized_weights_are_peft_s(
    zoo: Zoo, bits: int, theirs: dict[str, Any]
) -> None:
    spec = EngineSpec(
        model_id="m",
        backend=BackendName.HF,
        listen="unix:/s",
        model_path=str(zoo.model),
        dtype="float32",
        device="cpu",
        max_loras=4,
        max_lora_rank=80,
    )
    loaded = load_model(spec, read_settings({"quantization_bit": bits}, HfSettings))
    loaded.model.set_attn_implementation("sdpa")
    places = AdapterPlaces(loaded.lora_layers, 4, 320)

    for adapter in zoo.adapters:
        weights = read_adapter(adapter, loaded.lora_layers, AdapterRules(80), torch.float32)
        assert places.acquire(weights)
        plan_adapters(loaded.adapter_step, [places.columns(weights)], [IDS.numel()], loaded.device)
        found = loaded.model(input_ids=IDS, use_cache=False).logits
        tuned = PeftModel.from_pretrained(zoo.stock(theirs), adapter.path).eval()
        assert torch.allclose(found, tuned(input_ids=IDS, use_cache=False).logits, atol=1e-3)
        assert not torch.allclose(
            found, zoo.stock(theirs)(input_ids=IDS, use_cache=False).logits, atol=0.1
        )


def test_magnitudes_on_quantized_weights_are_refused(zoo: Zoo, tmp_path: Path) -> None:
    spec = EngineSpec(
        model_id="m",
        backend=BackendName.HF,
        listen="unix:/s",
        model_path=str(zoo.model),
        dtype="float32",
        device="cpu",
    )
    loaded = load_model(spec, read_settings({"quantization_bit": 8}, HfSettings))
    adapter = models.make_adapter(zoo.model, tmp_path / "dora", 3, use_dora=True)
    rules = rules_of(BackendName.HF, 64)
    with pytest.raises(RefusedError, match="DoRA on quantized weights"):
        read_adapter(adapter, loaded.lora_layers, rules, torch.float32)


@torch.inference_mode()
def continued(model: Any) -> tuple[list[int], list[float]]:
    ids = models.tokenizer().encode(PROMPT)
    logprobs: list[float] = []
    for _ in range(NUM_TOKENS):
        scores = model(torch.tensor([ids])).logits[0, -1].float().log_softmax(-1)
        ids.append(int(scores.argmax()))
        logprobs.append(float(scores.max()))
    return ids[-NUM_TOKENS:], logprobs


async def test_base_and_adapters_share_a_batch_on_four_bits(zoo: Zoo, tmp_path: Path) -> None:
    """To a tolerance: bitsandbytes has other kernels for one token than for several."""
    stock = zoo.stock(FOUR_BITS)
    wanted = {None: continued(stock)}
    for ref in zoo.adapters:
        tuned = PeftModel.from_pretrained(stock, ref.path).eval()
        wanted[ref.name] = continued(tuned)
        stock = tuned.unload()
    assert len({tuple(ids) for ids, _ in wanted.values()}) == 3
    worker = WorkerProcess(
        tmp_path,
        backend="hf",
        model_path=str(zoo.model),
        dtype="float32",
        device="cpu",
        max_loras=2,
        max_lora_rank=80,
        settings={"quantization_bit": 4},
    )
    client = await worker.client()
    greedy: dict[str, Any] = {"temperature": 0.0, "max_tokens": NUM_TOKENS, "ignore_eos": True}
    company: list[AdapterRef | None] = [None, *zoo.adapters]
    try:
        streams = [client.start(PROMPT, adapter=a, logprobs=0, **greedy) for a in company * 2]
        for adapter, number in zip(company * 2, streams, strict=True):
            answer = await client.finish(number)
            ids, logprobs = wanted[None if adapter is None else adapter.name]
            assert answer.ids == ids
            assert [e.logprob for e in answer.logprobs] == pytest.approx(logprobs, abs=0.05)
    finally:
        await client.close()
        worker.end()
