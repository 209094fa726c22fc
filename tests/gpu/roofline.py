"""What share of a device's best is reached: decoding against memory, training against matmul."""

from __future__ import annotations

import asyncio
import math
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch

from tests.engine.conftest import WorkerClient
from tests.gpu.findings import Finding
from tests.gpu.serving import with_engine
from tests.trainer.conftest import build_model, build_tokenizer, train
from workers.contract.parts import Tokens
from workers.contract.training import Completed, Step, TrainSpec

BILLION: dict[str, Any] = {
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 4096,
    "dtype": "bfloat16",
}
SMALL: dict[str, Any] = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "max_position_embeddings": 4096,
    "dtype": "bfloat16",
}
VOCABULARY = 32000
SHORT, LONG = 16, 80
"""New tokens of two runs; what the longer takes more is decoding alone."""
PROMPT_TOKENS = 64
TRAINED_STEPS = 8


def decode(device: str, folder: Path) -> list[Finding]:
    """Bytes of weights read a second, at 1 and at 32 rows, as a share of the memory's bandwidth."""
    num_bytes = _make_model(folder / "model", device)
    bandwidth, _ = peaks(device)

    async def ask(client: WorkerClient) -> list[Finding]:
        await _elapsed(client, 1, SHORT)
        found = [Finding("memory bandwidth", f"{bandwidth / 1e9:.0f} GB/s")]
        for rows in (1, 32):
            took = await _elapsed(client, rows, LONG) - await _elapsed(client, rows, SHORT)
            steps = (LONG - SHORT) / took
            share = steps * num_bytes / bandwidth
            told = f"{steps * rows:.0f} tokens/s, {share:.0%} of the bandwidth"
            found.append(Finding(f"decode, {rows} rows", told))
        return found

    return with_engine(
        "hf",
        folder / "engine",
        ask,
        device,
        model_path=str(folder / "model"),
        dtype="bfloat16",
        max_num_seqs=32,
        max_loras=0,
    )


def training(device: str, folder: Path) -> list[Finding]:
    """Operations a second of full training in bfloat16 (6 for each weight and token), as a share of
    what a large matmul gives."""
    num_weights = _make_model(folder / "model", device) // 2
    _, matmul = peaks(device)
    spec = _spec(folder, device)
    events = train(spec)
    if not isinstance(events[-1], Completed):
        raise RuntimeError(f"the run ended with {events[-1]}")
    steps = [event for event in events if isinstance(event, Step)][2:]
    took = steps[-1].at - steps[0].at
    tokens = (steps[-1].trained_tokens - steps[0].trained_tokens) / took
    share = 6 * num_weights * tokens / matmul
    told = f"{tokens:.0f} tokens/s, {share:.0%} of the matmul's speed"
    is_sound = all(math.isfinite(step.metrics["train_loss"]) for step in steps)
    return [
        Finding("bfloat16 matmul", f"{matmul / 1e12:.2f} TFLOP/s"),
        Finding(f"full training, {num_weights / 1e6:.0f}M weights", told, is_sound),
    ]


def peaks(device: str) -> tuple[float, float]:
    """What the device gives at its best: bytes moved and bfloat16 operations, a second."""
    is_cpu = device == "cpu"
    big = torch.zeros(2 ** (26 if is_cpu else 29), device=device)
    side = 512 if is_cpu else 8192
    square = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    moved = 2 * big.nbytes / _seconds(lambda: big.clone(), device)
    return moved, 2 * side**3 / _seconds(lambda: square @ square, device)


def _seconds(work: Callable[[], object], device: str) -> float:
    """The median of ten, after two that are not counted."""
    times: list[float] = []
    for _ in range(12):
        start = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def _make_model(folder: Path, device: str) -> int:
    """Random weights in bfloat16; their bytes. A small model on the CPU."""
    tokenizer = build_tokenizer()
    sizes = SMALL if device == "cpu" else BILLION
    model = build_model(VOCABULARY, **sizes).bfloat16()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sum(weight.nbytes for weight in model.parameters())


async def _elapsed(client: WorkerClient, rows: int, num_tokens: int) -> float:
    draw = random.Random(rows * 1000 + num_tokens)
    prompts = [[draw.randrange(300, 3000) for _ in range(PROMPT_TOKENS)] for _ in range(rows)]
    start = time.perf_counter()
    answers = await asyncio.gather(
        *(
            client.generate([Tokens(ids)], temperature=0.0, ignore_eos=True, max_tokens=num_tokens)
            for ids in prompts
        )
    )
    if any(answer.end.completion_tokens != num_tokens for answer in answers):
        raise RuntimeError(str(answers[0].end))
    return time.perf_counter() - start


def _spec(folder: Path, device: str) -> TrainSpec:
    num_chars, batch = (60, 2) if device == "cpu" else (2000, 8)
    answer = "abcdefgh " * (num_chars // 9)
    turns = [{"role": "user", "content": "Go on."}, {"role": "assistant", "content": answer}]
    rows = [msgspec.json.encode({"messages": turns})] * (batch * TRAINED_STEPS)
    (folder / "train.jsonl").write_bytes(b"\n".join(rows) + b"\n")
    content = {
        "job_id": "gpu",
        "output_dir": str(folder / "run"),
        "model": {"model_name_or_path": str(folder / "model"), "device": device},
        "data": {"train_file": str(folder / "train.jsonl")},
        "finetuning": {"finetuning_type": "full"},
        "training": {
            "num_train_epochs": 1,
            "per_device_train_batch_size": batch,
            "learning_rate": 1e-5,
            "bf16": True,
        },
    }
    return msgspec.convert(content, TrainSpec)
