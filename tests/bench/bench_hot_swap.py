"""Adapters coming and going while others generate, on the bundled model.

    python -m tests.bench.bench_hot_swap [--model DIR] [--dtype bfloat16]

Eight base streams run. Between their frames lies a step; a load is put among them every few steps,
and what it adds is the longest gap around it less the longest of as many steps without one. Then
the time from asking a cold adapter to its first token, and 100 adapters over 8 places.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from safetensors.torch import load_file, save_file

from tests.bench.bench_engine import BUNDLED
from tests.engine import models
from tests.engine.conftest import WorkerClient, WorkerProcess
from workers.contract.messages import Done, LoadAdapter
from workers.contract.parts import AdapterRef, Tokens

NUM_STREAMS, NUM_PLACES, NUM_ADAPTERS, NUM_LOADS = 8, 8, 100, 30
WINDOW_STEPS = 12
STREAM_TOKENS = 1500
FILE = "adapter_model.safetensors"
_TENTHS = (0.5, 0.9)


def make_adapters(model: Path, folder: Path, first_uid: int, count: int) -> list[AdapterRef]:
    """One made by peft, the others copies of other sizes of weights."""
    path = folder / f"bench-adapter-{first_uid}"
    made = [models.make_adapter(model, path, first_uid, r=8)]
    weights = load_file(path / FILE)
    for uid in range(first_uid + 1, first_uid + count):
        copy = folder / f"bench-adapter-{uid}"
        shutil.copytree(path, copy)
        save_file({n: w * random.uniform(0.5, 1.5) for n, w in weights.items()}, copy / FILE)
        made.append(AdapterRef(copy.name, uid, str(copy)))
    return made


class Streams:
    """Base streams under way, and when each token of the first of them came."""

    def __init__(self, client: WorkerClient) -> None:
        self._client = client
        self._ids = [
            client.start(
                [Tokens([300 + n] * 8)],
                temperature=0.0,
                max_tokens=STREAM_TOKENS,
                ignore_eos=True,
            )
            for n in range(NUM_STREAMS)
        ]

    async def gaps(self, count: int) -> list[float]:
        """Between the next `count` tokens."""
        queue = self._client.queues[self._ids[0]]
        while not queue.empty():
            queue.get_nowait()
        times: list[float] = []
        for _ in range(count + 1):
            await queue.get()
            times.append(time.perf_counter())
        return [later - earlier for earlier, later in itertools.pairwise(times)]

    async def finish(self) -> None:
        await asyncio.gather(*(self._client.finish(i, 600) for i in self._ids))


async def pauses(client: WorkerClient, adapters: list[AdapterRef]) -> str:
    streams = Streams(client)
    await streams.gaps(20)
    quiet: list[float] = []
    loaded: list[float] = []
    steps: list[float] = []
    for adapter in adapters:
        gaps = await streams.gaps(WINDOW_STEPS)
        steps += gaps
        quiet.append(max(gaps))
        loading = asyncio.create_task(client.ask(LoadAdapter, adapter))
        loaded.append(max(await streams.gaps(WINDOW_STEPS)))
        if not isinstance(await loading, Done):
            raise RuntimeError("an adapter was refused")
    await streams.finish()
    step = statistics.median(steps)
    added = statistics.median(loaded) - statistics.median(quiet)
    return (
        f"  one step of {NUM_STREAMS} streams {step * 1e3:.1f} ms; longest of {WINDOW_STEPS}: "
        f"{_tenths(quiet)} without a load, {_tenths(loaded)} with one; "
        f"a load adds {added * 1e3:.1f} ms ({added / step:.2f} steps)"
    )


async def first_tokens(client: WorkerClient, adapters: list[AdapterRef], is_busy: bool) -> str:
    streams = Streams(client) if is_busy else None
    found: list[float] = []
    for adapter in adapters:
        start = time.perf_counter()
        request = client.start([Tokens([500] * 100)], adapter=adapter, max_tokens=2)
        await client.queues[request].get()
        await client.queues[request].get()
        found.append(time.perf_counter() - start)
        await client.finish(request)
    if streams is not None:
        await streams.finish()
    company = f"beside {NUM_STREAMS} streams" if is_busy else "alone"
    return f"  cold adapter to first token, {company}: {_tenths(found)}"


async def traffic(client: WorkerClient, adapters: list[AdapterRef]) -> str:
    gate = asyncio.Semaphore(2 * NUM_PLACES)
    before = await client.next_stats()

    async def one(adapter: AdapterRef) -> int:
        async with gate:
            answer = await client.generate(
                [Tokens([random.randrange(300, 3000) for _ in range(30)])],
                adapter=adapter,
                temperature=0.0,
                max_tokens=16,
                ignore_eos=True,
            )
            return answer.end.completion_tokens

    start = time.perf_counter()
    weights = [1 / rank for rank in range(1, len(adapters) + 1)]
    chosen = random.choices(adapters, weights, k=400)
    num_tokens = sum(await asyncio.gather(*(one(adapter) for adapter in chosen)))
    wall = time.perf_counter() - start
    after = await client.next_stats()
    hits = after.adapter_hits - before.adapter_hits
    loads = after.adapter_loads - before.adapter_loads
    evictions = after.adapter_evictions - before.adapter_evictions
    return (
        f"  {len(adapters)} adapters over {NUM_PLACES} places, {len(chosen)} requests, popularity "
        f"1/rank: {num_tokens / wall:.0f} tokens/s, {hits / (hits + loads):.0%} hits, "
        f"{evictions} evictions, no error"
    )


def _tenths(values: list[float]) -> str:
    ordered = sorted(values)
    low, high = (ordered[int(share * (len(ordered) - 1))] for share in _TENTHS)
    return f"{low * 1e3:.1f} ms (p90 {high * 1e3:.1f})"


async def measure(model: Path, dtype: str, folder: Path) -> None:
    adapters = make_adapters(model, folder, 1, NUM_ADAPTERS)
    worker = WorkerProcess(
        folder / "worker",
        backend="hf",
        model_path=str(model),
        dtype=dtype,
        max_num_seqs=2 * NUM_PLACES,
        max_loras=NUM_PLACES,
        max_lora_rank=16,
    )
    client = await worker.client()
    write = sys.stdout.write
    write(f"\n{model.name}, {dtype}, adapters of rank 8\n")
    write(await pauses(client, adapters[:NUM_LOADS]) + "\n")
    third = (NUM_ADAPTERS - NUM_LOADS) // 2
    cold = adapters[NUM_LOADS:]
    write(await first_tokens(client, cold[:third], False) + "\n")
    write(await first_tokens(client, cold[third:], True) + "\n")
    write(await traffic(client, adapters) + "\n")
    await client.close()
    worker.end()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=BUNDLED)
    parser.add_argument("--dtype", default="bfloat16")
    arguments = parser.parse_args()
    random.seed(0)
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(measure(arguments.model, arguments.dtype, Path(name)))


if __name__ == "__main__":
    main()
