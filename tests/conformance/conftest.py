"""Every test here that takes `engine` runs on each real engine: HF, vLLM and SGLang.

One engine process serves all tests of a kind, one kind after another. An engine whose environment
is not built is skipped with the command that builds it. `RESULTS.md` is written from what ran.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import model_files
from tests.conformance.engines import KINDS, EngineProcess
from tests.conformance.model_files import ModelFiles
from tests.conformance.results import Results
from tests.engine.conftest import WorkerClient
from workers.contract.messages import Capability

_results = Results()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "engine" in metafunc.fixturenames:
        kinds = [
            pytest.param(name, marks=[] if name == "hf" else [pytest.mark.engine_env])
            for name in KINDS
        ]
        metafunc.parametrize("engine", kinds, indirect=True, scope="session")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Any:
    report = yield
    _results.add(item, report)
    return report


def pytest_sessionfinish() -> None:
    _results.write()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    model_files.save_environment()
    return model_files.build(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def engine(
    request: pytest.FixtureRequest, model: ModelFiles, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EngineProcess]:
    process = start(request.param, tmp_path_factory.mktemp(request.param), model.path)
    yield process
    process.end()


def start(name: str, folder: Path, model_path: Path, **overrides: Any) -> EngineProcess:
    kind = KINDS[name]
    if kind.python is None:
        pytest.skip(f"no environment for {name}: `tuneyard env create {name}`")
    process = EngineProcess(kind, folder, model_path, **overrides)
    try:
        process.wait_ready()
    except BaseException:
        process.end()
        raise
    return process


@pytest.fixture
async def client(engine: EngineProcess) -> AsyncIterator[WorkerClient]:
    opened = await engine.connect()
    _results.name_engine(engine.kind.name, engine.kind.label, opened.hello.engine)
    yield opened
    await opened.close()


@pytest.fixture
def needs(client: WorkerClient) -> Any:
    """Ends a test where the engine declares that it cannot: that refusal is tested on its own."""

    def check(capability: Capability) -> None:
        if capability not in client.hello.capabilities:
            pytest.skip(f"declared absent: {capability}")

    return check


@pytest.fixture
async def settled(client: WorkerClient) -> AsyncIterator[None]:
    """After the test the engine holds no sequence."""
    yield
    async with asyncio.timeout(20):
        while True:
            stats = await client.next_stats()
            if not stats.running and not stats.waiting:
                return
