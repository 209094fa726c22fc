"""Whether the engines answer on a device as the stock model answers on the CPU."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.conformance.engines import KINDS, EngineProcess
from tests.conformance.model_files import NUM_GREEDY, PROMPTS, ModelFiles, Reference, build
from tests.engine.conftest import Answer, WorkerClient
from tests.gpu.findings import Finding, NotHere
from workers.contract.messages import PromptScored
from workers.contract.parts import AdapterRef, Tokens

_NAMES = ("base", "alpha", "beta")
MAX_BF16_ERROR = 0.25
"""In a token's log-probability: bfloat16 has eight bits of mantissa."""

Ask = Callable[[WorkerClient], Awaitable[list[Finding]]]


def parity(device: str, folder: Path) -> list[Finding]:
    """The base and two adapters. Float32: mixed in one batch and alone, they give the stock model's
    tokens. Bfloat16: each token's log-probability is near the stock model's."""
    files = build(folder)
    return [
        *with_engine("hf", folder / "float32", lambda client: _parity(client, files), device),
        *with_engine(
            "hf",
            folder / "bfloat16",
            lambda client: _nearness(client, files),
            device,
            dtype="bfloat16",
        ),
    ]


def vllm(device: str, folder: Path) -> list[Finding]:
    """vLLM's worker on the same cases."""
    if KINDS["vllm"].python is None:
        raise NotHere("no environment for vllm: `tuneyard env create vllm`")
    files = build(folder)
    settings = KINDS["vllm"].settings if device == "cpu" else {}
    return with_engine(
        "vllm", folder / "engine", lambda client: _parity(client, files), device, settings=settings
    )


def with_engine(kind: str, folder: Path, ask: Ask, device: str, **overrides: Any) -> list[Finding]:
    """Starts an engine, asks it and ends it."""

    async def run() -> list[Finding]:
        await asyncio.to_thread(engine.wait_ready)
        client = await engine.connect()
        try:
            return await ask(client)
        finally:
            await client.close()

    engine = EngineProcess(KINDS[kind], folder, device=device, **overrides)
    try:
        return asyncio.run(run())
    except Exception as error:
        raise RuntimeError(f"{error}\n{engine.tail()}") from error
    finally:
        engine.end()


async def _nearness(client: WorkerClient, files: ModelFiles) -> list[Finding]:
    errors = [
        await _worst_error(client, files.references[name, index], index, _adapter(files, name))
        for name in _NAMES
        for index in range(len(PROMPTS))
    ]
    worst = max(errors)
    told = f"off by at most {worst:.3f} (limit {MAX_BF16_ERROR})"
    return [Finding("log-probabilities in bfloat16", told, worst <= MAX_BF16_ERROR)]


async def _parity(client: WorkerClient, files: ModelFiles) -> list[Finding]:
    cases = [(name, index) for name in _NAMES for index in range(len(PROMPTS))]
    alone = [await _greedy(client, files, *case) for case in cases]
    mixed = await asyncio.gather(*(_greedy(client, files, *case) for case in cases))
    return [
        _agreement("one at a time", cases, alone, files),
        _agreement("in one batch", cases, mixed, files),
    ]


def _agreement(
    how: str, cases: list[tuple[str, int]], answers: list[Answer], files: ModelFiles
) -> Finding:
    pairs = [(files.references[case], answer) for case, answer in zip(cases, answers, strict=True)]
    equal = sum(answer.ids[: ref.num_sure] == ref.sure_ids for ref, answer in pairs)
    return Finding(f"equal ids, {how}", f"{equal} of {len(cases)}", equal == len(cases))


async def _greedy(client: WorkerClient, files: ModelFiles, name: str, index: int) -> Answer:
    return await client.generate(
        [Tokens(PROMPTS[index])],
        adapter=_adapter(files, name),
        temperature=0.0,
        ignore_eos=True,
        max_tokens=NUM_GREEDY,
    )


async def _worst_error(
    client: WorkerClient, reference: Reference, index: int, adapter: AdapterRef | None
) -> float:
    """Over the answer of the reference, taken as a prompt."""
    ids = PROMPTS[index] + reference.ids
    answer = await client.generate(
        [Tokens(ids)], adapter=adapter, temperature=0.0, max_tokens=0, prompt_logprobs=0
    )
    (scored,) = (event for event in answer.events if isinstance(event, PromptScored))
    told = [entry.logprob for entry in scored.tokens[1:]]
    wanted = reference.prompt_logprobs + reference.logprobs
    return max(abs(got - want) for got, want in zip(told, wanted, strict=True))


def _adapter(files: ModelFiles, name: str) -> AdapterRef | None:
    return None if name == "base" else files.ref(name, _NAMES.index(name))
