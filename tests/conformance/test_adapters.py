"""Adapters come and go under traffic, and a bad one harms nobody."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.engines import MAX_LORA_RANK, MAX_LORAS, EngineProcess
from tests.conformance.model_files import KINDS, NUM_GREEDY, PROMPTS, ModelFiles
from tests.engine.conftest import WorkerClient
from workers.contract.messages import (
    Abort,
    Done,
    Failed,
    FailureKind,
    FinishReason,
    LoadAdapter,
    UnloadAdapter,
)
from workers.contract.parts import AdapterRef, Tokens
from workers.engine.adapter_files import check_adapter
from workers.engine.adapter_kinds import AdapterRules, rules_of
from workers.engine.backend import RefusedError
from workers.engine.spec import BackendName

_uids = itertools.count(1000)
"""Ids are never used twice in an engine; each test takes new ones."""


def _fresh(model: ModelFiles, name: str) -> AdapterRef:
    uid = next(_uids)
    return AdapterRef(f"{name}-{uid}", uid, str(model.adapters[name]))


async def _answer(client: WorkerClient, adapter: AdapterRef | None, prompt: int = 0) -> Any:
    return await client.generate(
        [Tokens(PROMPTS[prompt])],
        temperature=0.0,
        ignore_eos=True,
        max_tokens=NUM_GREEDY,
        adapter=adapter,
    )


def _check(answer: Any, model: ModelFiles, name: str, index: int = 0) -> None:
    reference = model.references[name, index]
    assert answer.ids[: reference.num_sure] == reference.sure_ids, name


async def test_an_adapter_loads_unloads_and_loads_again(
    client: WorkerClient, model: ModelFiles
) -> None:
    adapter = _fresh(model, "alpha")
    for _ in range(2):
        assert isinstance(await client.ask(LoadAdapter, adapter), Done)
        assert adapter.name in (await client.next_stats()).adapters
        _check(await _answer(client, adapter), model, "alpha")
        assert isinstance(await client.ask(UnloadAdapter, adapter.name), Done)
        assert adapter.name not in (await client.next_stats()).adapters


async def test_an_adapter_is_loaded_on_first_use(client: WorkerClient, model: ModelFiles) -> None:
    answer = await _answer(client, _fresh(model, "beta"))
    _check(answer, model, "beta")


async def test_unloading_waits_for_the_requests_that_use_it(
    client: WorkerClient, files: ModelFiles
) -> None:
    adapter = _fresh(files, "alpha")
    request = client.start([Tokens(PROMPTS[0])], ignore_eos=True, max_tokens=200, adapter=adapter)
    await asyncio.wait_for(client.queues[request].get(), 30)
    assert isinstance(await client.ask(UnloadAdapter, adapter.name), Done)
    answer = await client.finish(request)
    assert answer.end.reason is FinishReason.LENGTH
    assert len(answer.ids) == 200


async def test_more_adapters_than_places_take_turns_under_traffic(
    client: WorkerClient, model: ModelFiles
) -> None:
    """Loads, evictions and reloads while the base model streams; every answer is right."""
    names = ["alpha", "beta", "gamma"]
    assert len(names) > MAX_LORAS
    refs = {name: _fresh(model, name) for name in names}
    stream = client.start([Tokens(PROMPTS[1])], ignore_eos=True, max_tokens=1500, temperature=0.0)
    before = await client.next_stats()
    rounds = [(name, index) for index in range(3) for name in names] * 2
    answers = await asyncio.gather(*(_answer(client, refs[n], i) for n, i in rounds))
    for (name, index), answer in zip(rounds, answers, strict=True):
        _check(answer, model, name, index)
    client.send(Abort(stream))
    _check(await client.finish(stream), model, "base", 1)
    after = await client.next_stats()
    assert after.adapter_evictions > before.adapter_evictions
    assert len(after.adapters) <= MAX_LORAS


async def test_a_retrained_version_never_answers_from_the_old_ones_prefix_cache(
    client: WorkerClient, model: ModelFiles
) -> None:
    prompt = [(5 * i) % 300 + 3 for i in range(160)]

    async def ask(adapter: AdapterRef) -> Any:
        return await client.generate(
            [Tokens(prompt)], temperature=0.0, ignore_eos=True, max_tokens=8, adapter=adapter
        )

    old, new = _fresh(model, "alpha"), _fresh(model, "alpha-retrained")
    warm = [await ask(old) for _ in range(2)]
    assert warm[1].end.cached_tokens >= 128
    swapped = await ask(new)
    assert swapped.end.cached_tokens == 0
    assert swapped.ids != warm[0].ids
    cold = await ask(_fresh(model, "alpha-retrained"))
    assert swapped.ids == cold.ids


async def test_a_name_is_never_reused_for_other_files(
    client: WorkerClient, files: ModelFiles
) -> None:
    adapter = _fresh(files, "alpha")
    assert isinstance(await client.ask(LoadAdapter, adapter), Done)
    other = AdapterRef(adapter.name, adapter.uid, str(files.adapters["beta"]))
    answer = await _answer(client, other)
    assert answer.end.kind is FailureKind.ADAPTER_INVALID


async def test_an_evicted_adapter_whose_files_are_gone_fails_alone(
    client: WorkerClient, model: ModelFiles, tmp_path: Path
) -> None:
    folder = shutil.copytree(model.adapters["alpha"], tmp_path / "adapter")
    adapter = AdapterRef(f"fleeting-{next(_uids)}", next(_uids), str(folder))
    _check(await _answer(client, adapter), model, "alpha")
    for name in ("beta", "gamma"):
        await client.ask(LoadAdapter, _fresh(model, name))
    shutil.rmtree(folder)
    answer = await _answer(client, adapter)
    if isinstance(answer.end, Failed):
        assert answer.end.kind is FailureKind.ADAPTER_NOT_FOUND
    else:  # an engine may keep a copy in the host's memory
        _check(answer, model, "alpha")
    _check(await _answer(client, None), model, "base")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("corrupt", FailureKind.ADAPTER_INVALID),
        ("wrong-rank", FailureKind.ADAPTER_INVALID),
        ("lying-rank", FailureKind.ADAPTER_INVALID),
        ("wrong-shape", FailureKind.ADAPTER_INVALID),
        ("dora", FailureKind.ADAPTER_INVALID),
        ("saves-modules", FailureKind.ADAPTER_INVALID),
        ("no-weights", FailureKind.ADAPTER_NOT_FOUND),
        ("missing", FailureKind.ADAPTER_NOT_FOUND),
    ],
    ids=lambda value: value if type(value) is str else "",
)
async def test_a_bad_adapter_is_refused_and_the_engine_lives(
    client: WorkerClient, model: ModelFiles, name: str, kind: FailureKind
) -> None:
    adapter = _fresh(model, name)
    resident = (await client.next_stats()).adapters
    refused = await client.ask(LoadAdapter, adapter)
    assert isinstance(refused, Failed)
    assert refused.kind is kind
    assert str(model.adapters[name].parent) not in refused.message
    answer = await _answer(client, adapter)
    assert answer.end.kind is kind
    assert len(answer.events) == 1
    assert (await client.next_stats()).adapters == resident
    _check(await _answer(client, None), model, "base")


@pytest.mark.parametrize("name", KINDS)
async def test_an_adapter_of_another_kind_is_served_or_refused_by_its_name(
    client: WorkerClient, model: ModelFiles, engine: EngineProcess, name: str
) -> None:
    adapter = _fresh(model, name)
    message = _refusal(adapter, rules_of(BackendName(engine.kind.name), MAX_LORA_RANK))
    if message is None:
        _check(await _answer(client, adapter), model, name)
    else:
        assert (await client.ask(LoadAdapter, adapter)).message == message


def _refusal(adapter: AdapterRef, rules: AdapterRules) -> str | None:
    try:
        check_adapter(adapter, None, rules)
    except RefusedError as refused:
        return refused.message
    return None


async def test_adapters_come_and_go_and_are_counted(
    client: WorkerClient, files: ModelFiles
) -> None:
    before = await client.next_stats()
    for name in ("alpha", "beta", "gamma"):
        adapter = _fresh(files, name)
        assert isinstance(await client.ask(LoadAdapter, adapter), Done)
        assert adapter.name in (await client.next_stats()).adapters
    after = await client.next_stats()
    assert len(after.adapters) == MAX_LORAS
    assert after.adapter_loads == before.adapter_loads + 3
    assert after.adapter_evictions > before.adapter_evictions
    assert isinstance(await client.ask(UnloadAdapter, adapter.name), Done)
    assert adapter.name not in (await client.next_stats()).adapters


async def test_an_adapter_without_files_is_refused(client: WorkerClient, files: ModelFiles) -> None:
    refused = await client.ask(LoadAdapter, _fresh(files, "missing"))
    assert refused.kind is FailureKind.ADAPTER_NOT_FOUND
    assert len((await _answer(client, None)).ids) == NUM_GREEDY


async def test_an_unknown_adapter_unloads_without_complaint(client: WorkerClient) -> None:
    assert isinstance(await client.ask(UnloadAdapter, "never-seen"), Done)
