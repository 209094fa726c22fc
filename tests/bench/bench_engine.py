"""The HF engine against one-at-a-time `generate()`, and a batch over many adapters against base.

    python -m tests.bench.bench_engine [--model DIR] [--rounds N] [--dtype bfloat16]

100-token prompts, 64 new tokens, greedy. Everything is measured in turns within one run, so that
ratios hold on a busy machine; tokens per CPU-second are the steadier of the two. Without --model a
random Qwen3 of some 100 million parameters is made, and the bundled model is measured as well. A
batch of a small model is over so soon that its adapters are compared many more times.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import AutoModelForCausalLM

from tests.engine import models
from tests.engine.conftest import WorkerClient, WorkerProcess
from workers.contract.parts import AdapterRef, Tokens

PROMPT_TOKENS, NEW_TOKENS = 100, 64
CONCURRENCIES = (1, 8, 32)
NUM_ADAPTERS, ADAPTER_BATCH = 8, 8
SMALL_PARAMETERS, SMALL_ROUNDS = 20e6, 16
BUNDLED = Path(__file__).parents[2] / "deploy" / "model" / "tuneyard-mini"
MEDIUM: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 1024,
    "initializer_range": 0.02,
}

Results = dict[str, list[tuple[float, float]]]
"""By case: tokens per second and per CPU-second of each round."""


def prompts(count: int, vocab_size: int) -> list[list[int]]:
    return [[random.randrange(300, vocab_size) for _ in range(PROMPT_TOKENS)] for _ in range(count)]


def generate(model: Any, batch: list[list[int]]) -> None:
    for ids in batch:
        tokens = torch.tensor([ids])
        model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS,
            do_sample=False,
            pad_token_id=0,
        )


async def serve(
    client: WorkerClient,
    batch: list[list[int]],
    concurrency: int,
    adapters: list[AdapterRef | None] | None = None,
) -> None:
    """Keeps `concurrency` requests under way until the batch is done."""
    gate = asyncio.Semaphore(concurrency)

    async def one(index: int, ids: list[int]) -> None:
        async with gate:
            answer = await client.generate(
                [Tokens(ids)],
                adapter=adapters[index % len(adapters)] if adapters else None,
                temperature=0.0,
                max_tokens=NEW_TOKENS,
                ignore_eos=True,
            )
            if answer.end.completion_tokens != NEW_TOKENS:
                raise RuntimeError(str(answer.end))

    await asyncio.gather(*(one(index, ids) for index, ids in enumerate(batch)))


async def timed(
    results: Results, case: str, num_tokens: int, processes: list[int], work: Awaitable[None]
) -> None:
    before, start = _cpu_seconds(processes), time.perf_counter()
    await work
    wall, cpu = time.perf_counter() - start, _cpu_seconds(processes) - before
    results[case].append((num_tokens / wall, num_tokens / cpu))


def _cpu_seconds(processes: list[int]) -> float:
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in processes)


async def measure(model_path: Path, dtype: str, rounds: int, folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=getattr(torch, dtype)).eval()
    vocab_size = model.config.vocab_size
    adapters = [
        models.make_adapter(model_path, folder / f"{model_path.name}-a{n}", n + 1, r=8)
        for n in range(NUM_ADAPTERS)
    ]
    worker = WorkerProcess(
        folder / f"worker-{model_path.name}",
        backend="hf",
        model_path=str(model_path),
        dtype=dtype,
        max_num_seqs=max(CONCURRENCIES),
        max_loras=NUM_ADAPTERS,
        max_lora_rank=16,
        settings={"num_threads": torch.get_num_threads()},
    )
    client = await worker.client()
    results: Results = defaultdict(list)
    here, there = [psutil.Process().pid], [worker.process.pid]
    await serve(client, prompts(NUM_ADAPTERS, vocab_size), NUM_ADAPTERS, [*adapters])
    generate(model, prompts(1, vocab_size))
    mixed: list[AdapterRef | None] = [*adapters]
    for _ in range(rounds):
        batch = prompts(2, vocab_size)
        done = asyncio.to_thread(generate, model, batch)
        await timed(results, "generate()", len(batch) * NEW_TOKENS, here, done)
        for concurrency in CONCURRENCIES:
            batch = prompts(max(2, concurrency), vocab_size)
            work = serve(client, batch, concurrency)
            await timed(results, f"engine {concurrency}", len(batch) * NEW_TOKENS, there, work)
    num_parameters = sum(p.numel() for p in model.parameters())
    for _ in range(SMALL_ROUNDS if num_parameters < SMALL_PARAMETERS else rounds):
        for case, chosen in (("base only", None), ("8 adapters", mixed), ("1 adapter", mixed[:1])):
            batch = prompts(ADAPTER_BATCH, vocab_size)
            work = serve(client, batch, ADAPTER_BATCH, chosen)
            await timed(results, case, len(batch) * NEW_TOKENS, there, work)
    await client.close()
    worker.end()
    report(f"{model_path.name} ({num_parameters / 1e6:.1f}M, {dtype})", results)


def report(title: str, results: Results) -> None:
    write = _writer()
    write(f"\n{title}\n")
    reference = {"8 adapters": "base only", "1 adapter": "base only"}
    for case, rates in results.items():
        wall, cpu = (statistics.median(rate[i] for rate in rates) for i in (0, 1))
        line = f"  {case:12s} {wall:8.1f} tokens/s {cpu:8.1f} tokens/CPU-s"
        other = reference.get(case, "generate()")
        if len(rates) == len(results[other]):
            wall, cpu = (
                statistics.median(a[i] / b[i] for a, b in zip(rates, results[other], strict=True))
                for i in (0, 1)
            )
            line += f"   {wall:6.2f}x wall {cpu:6.2f}x CPU of {other}"
        write(line + "\n")


def _writer() -> Callable[[str], object]:
    import sys

    return sys.stdout.write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, action="append", default=[])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="bfloat16")
    arguments = parser.parse_args()
    random.seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        chosen = arguments.model
        if not chosen:
            chosen = [models.make_model(folder / "medium", **MEDIUM)]
            if (BUNDLED / "config.json").is_file():
                chosen.append(BUNDLED)
        for path in chosen:
            asyncio.run(measure(path, arguments.dtype, arguments.rounds, folder))


if __name__ == "__main__":
    main()
