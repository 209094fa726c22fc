"""Adapters on the HF engine: equal to their merged models, in any company, through any trouble."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from workers.contract.messages import Done, Failed, FailureKind, LoadAdapter, UnloadAdapter
from workers.contract.parts import AdapterRef

from . import models
from .conftest import WorkerClient, WorkerProcess

PROMPT = "The quick brown fox"
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": 10, "ignore_eos": True}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"r": 8, "lora_alpha": 4},
    {"use_rslora": True},
    {"target_modules": ["q_proj", "v_proj"], "lora_alpha": 16},
    {"rank_pattern": {"q_proj": 2, "down_proj": 6}, "alpha_pattern": {"up_proj": 2}},
    {"r": 1, "lora_alpha": 6},
]


class Zoo:
    """A model, adapters for it, and what each gives for `PROMPT`, from merged models."""

    def __init__(self, folder: Path) -> None:
        self.model = models.make_model(folder / "model")
        self.base = models.greedy(models.load(self.model), PROMPT, 10)
        self.adapters: list[AdapterRef] = []
        self.expected: dict[str, list[int]] = {}
        for uid, variant in enumerate(VARIANTS, 1):
            ref = models.make_adapter(self.model, folder / f"adapter{uid}", uid, **variant)
            self.adapters.append(ref)
            self.expected[ref.name] = models.greedy(models.merged(self.model, ref), PROMPT, 10)

    def expect(self, adapter: AdapterRef | None) -> list[int]:
        return self.base if adapter is None else self.expected[adapter.name]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return Zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="module")
def worker(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    process = WorkerProcess(
        tmp_path_factory.mktemp("lora"),
        backend="hf",
        model_path=str(zoo.model),
        dtype="float32",
        device="cpu",
        max_num_seqs=8,
        max_loras=3,
        max_lora_rank=8,
        settings={"adapter_host_bytes": 0},
    )
    yield process
    process.end()


def test_the_adapters_of_this_file_change_the_answer(zoo: Zoo) -> None:
    answers = [tuple(zoo.base), *(tuple(ids) for ids in zoo.expected.values())]
    assert len(set(answers)) == len(answers)


async def test_each_adapter_alone_equals_its_merged_model(zoo: Zoo, client: WorkerClient) -> None:
    for adapter in zoo.adapters:
        answer = await client.generate(PROMPT, adapter=adapter, **GREEDY)
        assert answer.ids == zoo.expect(adapter), adapter.name


async def test_one_batch_mixes_base_and_adapters(zoo: Zoo, client: WorkerClient) -> None:
    """Six adapters over three places, with the base among them; prefixes are not shared between
    them although all prompts are equal."""
    order = [None, *zoo.adapters] * 4
    random.Random(5).shuffle(order)
    requests = [client.start(PROMPT, adapter=adapter, **GREEDY) for adapter in order]
    for adapter, request in zip(order, requests, strict=True):
        answer = await client.finish(request)
        assert answer.ids == zoo.expect(adapter), adapter
    stats = await client.next_stats()
    assert len(stats.adapters) <= 3
    assert stats.adapter_evictions > 0


async def test_loading_and_unloading_while_others_generate(zoo: Zoo, client: WorkerClient) -> None:
    long = {**GREEDY, "max_tokens": 300}
    streams = [client.start(PROMPT, adapter=a, **long) for a in (None, zoo.adapters[0])]
    for _ in range(3):
        for adapter in zoo.adapters[1:]:
            assert isinstance(await client.ask(LoadAdapter, adapter), Done)
            answer = await client.generate(PROMPT, adapter=adapter, **GREEDY)
            assert answer.ids == zoo.expect(adapter)
            assert isinstance(await client.ask(UnloadAdapter, adapter.name), Done)
            assert adapter.name not in (await client.next_stats()).adapters
    for adapter, request in zip((None, zoo.adapters[0]), streams, strict=True):
        assert (await client.finish(request)).ids[:10] == zoo.expect(adapter)


async def test_unloading_waits_for_its_users(zoo: Zoo, client: WorkerClient) -> None:
    adapter = zoo.adapters[0]
    request = client.start(PROMPT, adapter=adapter, **{**GREEDY, "max_tokens": 100})
    await client.queues[request].get()
    assert isinstance(await client.ask(UnloadAdapter, adapter.name), Done)
    answer = await client.finish(request)
    assert answer.ids[:10] == zoo.expect(adapter)
    assert client.queues[request].empty()


def _edit_config(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return edit


def _edit_weights(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        file = folder / "adapter_model.safetensors"
        weights = load_file(file)
        change(weights)
        save_file(weights, file)

    return edit


def _shrink(weights: dict[str, torch.Tensor]) -> None:
    name = next(n for n in weights if "q_proj.lora_A" in n)
    weights[name] = weights[name][:, :-1].contiguous()


def _poison(weights: dict[str, torch.Tensor]) -> None:
    next(iter(weights.values()))[0, 0] = float("nan")


def _overflow(weights: dict[str, torch.Tensor]) -> None:
    """Finite, until it is scaled."""
    next(weight for name, weight in weights.items() if "lora_B" in name)[0, 0] = 3e38


def _rename(weights: dict[str, torch.Tensor]) -> None:
    for name in [n for n in weights if "q_proj" in n]:
        weights[name.replace("q_proj", "z_proj")] = weights.pop(name)


def _add_bias(weights: dict[str, torch.Tensor]) -> None:
    name = next(n for n in weights if "q_proj.lora_A" in n)
    weights[name.replace("lora_A.weight", "base_layer.bias")] = torch.ones(128)


def _truncate(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _garbage(folder: Path) -> None:
    (folder / "adapter_model.safetensors").write_bytes(b"not safetensors at all")


def _no_weights(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()


FAULTS: dict[str, tuple[Callable[[Path], Any], FailureKind]] = {
    "no folder": (shutil.rmtree, FailureKind.ADAPTER_NOT_FOUND),
    "no weights": (_no_weights, FailureKind.ADAPTER_NOT_FOUND),
    "garbage": (_garbage, FailureKind.ADAPTER_INVALID),
    "cut short": (_truncate, FailureKind.ADAPTER_INVALID),
    "config not json": (
        lambda folder: (folder / "adapter_config.json").write_text("{"),
        FailureKind.ADAPTER_INVALID,
    ),
    "dora without magnitudes": (_edit_config(use_dora=True), FailureKind.ADAPTER_INVALID),
    "modules_to_save without weights": (
        _edit_config(modules_to_save=["lm_head"]),
        FailureKind.ADAPTER_INVALID,
    ),
    "bias": (_edit_weights(_add_bias), FailureKind.ADAPTER_INVALID),
    "not lora": (_edit_config(peft_type="IA3"), FailureKind.ADAPTER_INVALID),
    "other rank": (_edit_config(r=5), FailureKind.ADAPTER_INVALID),
    "wrong shape": (_edit_weights(_shrink), FailureKind.ADAPTER_INVALID),
    "unknown layer": (_edit_weights(_rename), FailureKind.ADAPTER_INVALID),
    "not a number": (_edit_weights(_poison), FailureKind.ADAPTER_INVALID),
    "too large": (_edit_weights(_overflow), FailureKind.ADAPTER_INVALID),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_faulty_adapter_is_refused_and_the_engine_lives(
    zoo: Zoo, client: WorkerClient, tmp_path: Path, fault: str
) -> None:
    spoil, kind = FAULTS[fault]
    folder = tmp_path / f"faulty {fault}"
    shutil.copytree(zoo.adapters[0].path, folder)
    spoil(folder)
    uid = 100 + list(FAULTS).index(fault)
    ref = AdapterRef(folder.name, uid, str(folder))
    loaded = await client.ask(LoadAdapter, ref)
    assert isinstance(loaded, Failed)
    assert loaded.kind == kind
    assert str(tmp_path) not in loaded.message
    answer = await client.generate(PROMPT, adapter=ref, **GREEDY)
    assert [type(event) for event in answer.events] == [Failed]
    assert answer.end.kind == kind
    assert (await client.generate(PROMPT, **GREEDY)).ids == zoo.base


async def test_a_rank_over_the_limit_is_refused(
    zoo: Zoo, client: WorkerClient, tmp_path: Path
) -> None:
    ref = models.make_adapter(zoo.model, tmp_path / "wide", 200, r=16)
    failed = await client.ask(LoadAdapter, ref)
    assert failed.kind == FailureKind.ADAPTER_INVALID
    assert "limit of 8" in failed.message


async def test_a_name_is_never_used_for_other_files(
    zoo: Zoo, client: WorkerClient, tmp_path: Path
) -> None:
    first = zoo.adapters[0]
    await client.ask(LoadAdapter, first)
    for other in (
        AdapterRef(first.name, first.uid, zoo.adapters[1].path),
        AdapterRef(first.name, 300, first.path),
        AdapterRef("new name", first.uid, first.path),
    ):
        assert (await client.ask(LoadAdapter, other)).kind == FailureKind.ADAPTER_INVALID


async def test_an_evicted_adapter_whose_files_are_gone_fails_alone(
    zoo: Zoo, client: WorkerClient, tmp_path: Path
) -> None:
    """Nothing is kept in main memory here, so an eviction means reading the files again."""
    folder = tmp_path / "fleeting"
    shutil.copytree(zoo.adapters[0].path, folder)
    ref = AdapterRef("fleeting", 400, str(folder))
    answer = await client.generate(PROMPT, adapter=ref, **GREEDY)
    assert answer.ids == zoo.expect(zoo.adapters[0])
    shutil.rmtree(folder)
    for adapter in zoo.adapters[1:]:
        await client.generate(PROMPT, adapter=adapter, **GREEDY)
    assert (await client.generate(PROMPT, adapter=ref, **GREEDY)).end.kind == (
        FailureKind.ADAPTER_NOT_FOUND
    )
    assert (await client.generate(PROMPT, **GREEDY)).ids == zoo.base


async def test_an_engine_without_places_refuses_adapters(
    zoo: Zoo, start_worker: Any, connect: Any
) -> None:
    client = await connect(
        start_worker(backend="hf", model_path=str(zoo.model), device="cpu", max_loras=0)
    )
    answer = await client.generate(PROMPT, adapter=zoo.adapters[0])
    assert (answer.end.kind, answer.end.param) == (FailureKind.UNSUPPORTED, "model")
    assert (await client.ask(LoadAdapter, zoo.adapters[0])).kind == FailureKind.UNSUPPORTED
