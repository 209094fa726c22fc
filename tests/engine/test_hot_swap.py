"""A hundred adapters over eight places, under random traffic: every answer is the right one."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from workers.contract.parts import AdapterRef

from . import models

NUM_ADAPTERS, NUM_PLACES, NUM_REQUESTS, CONCURRENCY = 100, 8, 250, 16
PROMPT, NUM_TOKENS = "The quick brown fox", 4
FILE = "adapter_model.safetensors"


def make_adapters(model: Path, folder: Path) -> list[AdapterRef]:
    """Of ranks 1, 2 and 4, so that places differ in width; all but three are copies with other
    weights, for making one with peft takes long."""
    kinds = [
        models.make_adapter(model, folder / f"kind{rank}", 1, r=rank, lora_alpha=8)
        for rank in (1, 2, 4)
    ]
    made: list[AdapterRef] = []
    for uid in range(1, NUM_ADAPTERS + 1):
        path = folder / f"adapter{uid}"
        shutil.copytree(kinds[uid % len(kinds)].path, path)
        generator = torch.Generator().manual_seed(uid)
        weights = {
            name: torch.empty_like(weight).normal_(0, 0.12, generator=generator)
            for name, weight in load_file(path / FILE).items()
        }
        save_file(weights, path / FILE)
        made.append(AdapterRef(path.name, uid, str(path)))
    return made


def answers(model_folder: Path, adapters: list[AdapterRef]) -> dict[str, list[int]]:
    """What the base model, with each adapter's product added to its weights, says."""
    model = models.load(model_folder)
    base = {name: weight.clone() for name, weight in model.state_dict().items()}
    found = {"": models.greedy(model, PROMPT, NUM_TOKENS)}
    for adapter in adapters:
        weights = load_file(Path(adapter.path) / FILE)
        merged = dict(base)
        for name, a in weights.items():
            if "lora_A" in name:
                b = weights[name.replace("lora_A", "lora_B")]
                target = name.removeprefix("base_model.model.").replace("lora_A.", "")
                merged[target] = base[target] + b @ a * (8 / a.shape[0])
        model.load_state_dict(merged)
        found[adapter.name] = models.greedy(model, PROMPT, NUM_TOKENS)
    return found


async def test_a_hundred_adapters_share_eight_places(
    tmp_path: Path, start_worker: Any, connect: Any
) -> None:
    model = models.make_model(tmp_path / "model")
    adapters = make_adapters(model, tmp_path)
    expected = await asyncio.to_thread(answers, model, adapters)
    assert len({tuple(ids) for ids in expected.values()}) > NUM_ADAPTERS // 2
    worker = start_worker(
        backend="hf",
        model_path=str(model),
        dtype="float32",
        device="cpu",
        max_num_seqs=CONCURRENCY,
        max_loras=NUM_PLACES,
        max_lora_rank=4,
        settings={"adapter_host_bytes": 1_000_000},
    )
    client = await connect(worker)
    dice = random.Random(3)
    popular = [*adapters[:6]] * 20
    order = [dice.choice([None, *adapters, *popular]) for _ in range(NUM_REQUESTS)]
    gate = asyncio.Semaphore(CONCURRENCY)
    wrong: Counter[str] = Counter()

    async def ask(adapter: AdapterRef | None) -> None:
        async with gate:
            answer = await client.generate(
                PROMPT, adapter=adapter, temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True
            )
        name = adapter.name if adapter is not None else ""
        if answer.ids != expected[name]:
            wrong[name] += 1

    await asyncio.gather(*(ask(adapter) for adapter in order))
    assert not wrong
    stats = await client.next_stats()
    num_adapted = sum(adapter is not None for adapter in order)
    assert stats.adapter_hits + stats.adapter_loads == num_adapted
    assert stats.adapter_loads - stats.adapter_evictions == len(stats.adapters) <= NUM_PLACES
    assert stats.adapter_hits > num_adapted // 4
    assert stats.adapter_evictions > NUM_PLACES
