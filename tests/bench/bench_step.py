"""Where the time of a decode step of the HF engine goes.

    python -m tests.bench.bench_step [--model DIR] [--threads N]

A real worker with its socket runs in this process; functions of the engine are timed from outside,
each without those it calls, in CPU time of their own thread, so that other work on the machine and
the client here count for nothing. Only steps in which every row decodes are counted. Timing itself
adds a few percent. Where adapters' columns lie behind the weights (see lora/layer), B's part is in
the layers' products. Without --model: the bundled model and the random one of bench_engine.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.bench.bench_engine import BUNDLED, MEDIUM, NUM_ADAPTERS, PROMPT_TOKENS
from tests.engine import models
from tests.engine.conftest import WorkerClient
from workers.contract.messages import Token
from workers.contract.parts import AdapterRef, Tokens
from workers.engine.backends import create
from workers.engine.hf import dense
from workers.engine.hf import engine as hf_engine
from workers.engine.hf.attention import SlotAttention
from workers.engine.hf.lora.gathered import GatheredFactors
from workers.engine.hf.lora.layer import SharedInput
from workers.engine.hf.packing import Packed
from workers.engine.hf.sampling import Sampler
from workers.engine.hf.scheduler import Scheduler
from workers.engine.listener import Connection, Listener
from workers.engine.service import EngineService
from workers.engine.spec import BackendName, EngineSpec

CASES: tuple[tuple[str, list[int], bool], ...] = (
    ("1 row", [PROMPT_TOKENS], False),
    ("8 rows", [PROMPT_TOKENS] * 8, False),
    ("32 rows", [PROMPT_TOKENS] * 32, False),
    ("32 mixed", [20 + 18 * n for n in range(32)], False),
    ("8 adapters", [PROMPT_TOKENS] * 8, True),
)
"""By name: the prompts' lengths, and whether each has an adapter of its own."""
STEPS, MIN_STEPS, CASE_S = 100, 10, 2.0
"""Counted at most, at least, and for how long in between."""
MAX_TOKENS = 400
HEADS, MLP, PROJECTIONS = "head norms, rotation", "MLP products", "attention projections"
PARTS: tuple[tuple[Any, str, str], ...] = (
    (hf_engine.Engine, "_turn", "loop, outputs"),
    (Scheduler, "admit", "scheduling"),
    (Scheduler, "plan", "scheduling"),
    (hf_engine, "pack", "packing"),
    (hf_engine, "lay_out", "packing"),
    (Packed, "logits", "packing"),
    (dense.DenseDecoder, "logits", "embeddings, sums, silu"),
    (dense, "_Norm", "norms"),
    (dense.DenseDecoder, "_attend", HEADS),
    (SharedInput, "compute", MLP),
    (SlotAttention, "attend_packed", "attention"),
    (GatheredFactors, "add", "adapters' own products"),
    (SharedInput, "_own_ranks", "adapters' own products"),
    (nn.Linear, "forward", "output head"),
    (Sampler, "sample", "sampling"),
    (EngineService, "deliver", "text"),
    (Connection, "_flush", "sending"),
)
"""What is timed, and by which name; the engine's thread first, then the event loop's."""


class Stopwatch:
    """CPU time of wrapped functions, each without the wrapped ones it calls."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.num_steps = 0
        self._thread = threading.local()

    def clear(self) -> None:
        self.seconds.clear()
        self.num_steps = 0

    def wrap(self, owner: Any, name: str, part: str) -> None:
        if isinstance(getattr(owner, name), type):
            owner, name = getattr(owner, name), "__call__"
        setattr(owner, name, self._timed(getattr(owner, name), part))

    def _timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            stack = self._stack()
            # Products within attention are its projections; elsewhere, those of the MLP.
            named = PROJECTIONS if part == MLP and stack and stack[-1][0] == HEADS else part
            frame: list[Any] = [named, 0.0]
            stack.append(frame)
            begun = time.thread_time()
            try:
                return function(*arguments, **options)
            finally:
                took_s = time.thread_time() - begun
                stack.pop()
                self.seconds[named] += took_s - frame[1]
                self.num_steps += named == "sampling"
                if stack:
                    stack[-1][1] += took_s

        return timed

    def _stack(self) -> list[list[Any]]:
        if not hasattr(self._thread, "stack"):
            self._thread.stack = []
        return self._thread.stack


class Worker:
    """An engine with its socket, in this process."""

    def __init__(self, model_path: Path, folder: Path, threads: int | None) -> None:
        settings = {"prefix_rows": 0} | ({} if threads is None else {"num_threads": threads})
        self._spec = EngineSpec(
            model_id="bench",
            backend=BackendName.HF,
            listen=f"unix:{folder}/engine.sock",
            model_path=str(model_path),
            dtype="bfloat16",
            device="cpu",
            max_num_seqs=max(len(lengths) for _, lengths, _ in CASES),
            max_loras=NUM_ADAPTERS,
            max_lora_rank=16,
            settings=settings,
        )

    async def __aenter__(self) -> WorkerClient:
        spec = self._spec
        self._backend, vocabulary = create(spec)
        service = EngineService(spec.model_id, self._backend, vocabulary, spec.max_num_seqs)
        self._listener = Listener(service, spec.listen, None, None)
        await service.start()
        await self._listener.start()
        self._client = await WorkerClient.connect(spec.listen)
        return self._client

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()
        await self._listener.close()
        await self._backend.close()


def prompts(lengths: list[int], vocab_size: int) -> list[list[int]]:
    return [random.choices(range(300, vocab_size), k=length) for length in lengths]


async def measure_case(
    client: WorkerClient, watch: Stopwatch, lengths: list[int], adapters: list[AdapterRef]
) -> dict[str, float]:
    """Milliseconds a step, by part."""
    requests = [
        client.start(
            [Tokens(ids)],
            adapter=adapters[n % len(adapters)] if adapters else None,
            temperature=0.0,
            max_tokens=MAX_TOKENS,
            ignore_eos=True,
        )
        for n, ids in enumerate(prompts(lengths, client.hello.vocab_size - 100))
    ]
    for request in requests:  # until all decode
        num_tokens = 0
        while num_tokens < 3:
            num_tokens += isinstance(await client.queues[request].get(), Token)
    watch.clear()
    deadline = time.monotonic() + CASE_S
    while watch.num_steps < MIN_STEPS or (watch.num_steps < STEPS and time.monotonic() < deadline):
        await asyncio.sleep(0.01)
    num_steps, seconds = watch.num_steps, dict(watch.seconds)
    await client.abort(*requests)
    return {part: took_s / num_steps * 1e3 for part, took_s in seconds.items()}


async def measure(model_path: Path, folder: Path, watch: Stopwatch, threads: int | None) -> None:
    adapters = [
        models.make_adapter(model_path, folder / f"{model_path.name}-a{n}", n + 1, r=8)
        for n in range(NUM_ADAPTERS)
    ]
    found: dict[str, dict[str, float]] = {}
    async with Worker(model_path, folder, threads) as client:
        for case, lengths, is_adapted in CASES:
            chosen = adapters if is_adapted else []
            await measure_case(client, watch, lengths, chosen)  # memory and kernels are made
            found[case] = await measure_case(client, watch, lengths, chosen)
    report(f"{model_path.name} (bfloat16, {torch.get_num_threads()} threads)", found)


def report(title: str, found: dict[str, dict[str, float]]) -> None:
    out = sys.stdout.write
    out(f"\n{title}: ms a step, and share of it\n")
    out(f"  {'':24}" + "".join(f"{case:>16}" for case in found) + "\n")
    totals = {case: sum(parts.values()) for case, parts in found.items()}
    for part in dict.fromkeys([*(part for _, _, part in PARTS), PROJECTIONS]):
        cells = [(parts.get(part, 0.0), totals[case]) for case, parts in found.items()]
        line = "".join(f"{ms:10.3f} {ms / total:4.0%} " for ms, total in cells)
        out(f"  {part:24}{line}\n")
    out(f"  {'whole step':24}" + "".join(f"{ms:10.3f} 100% " for ms in totals.values()) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, action="append", default=[])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    random.seed(0)
    watch = Stopwatch()
    for owner, name, part in PARTS:
        watch.wrap(owner, name, part)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        chosen = arguments.model or [BUNDLED, models.make_model(folder / "medium", **MEDIUM)]
        for path in chosen:
            asyncio.run(measure(path, folder, watch, arguments.threads))


if __name__ == "__main__":
    main()
