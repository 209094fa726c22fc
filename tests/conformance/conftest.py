"""Every test here that takes `engine` or `client` runs on each: scripted, HF, vLLM and SGLang.

One engine process serves all tests of a kind, one kind after another; the next one starts while the
tests of the one before it run. An engine whose environment is not built is skipped with the command
that builds it. `RESULTS.md` is written by a run of the whole suite only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import model_files
from tests.conformance.engines import KINDS, EngineProcess
from tests.conformance.model_files import ModelFiles
from tests.conformance.results import Results
from tests.engine.conftest import GUARD_S, WorkerClient
from workers.contract.hello import Capability

_results = Results()
_NEEDS_ENVIRONMENT = {"vllm", "sglang"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "engine" in metafunc.fixturenames:
        kinds = [
            pytest.param(name, marks=[pytest.mark.engine_env] if name in _NEEDS_ENVIRONMENT else [])
            for name in KINDS
        ]
        metafunc.parametrize("engine", kinds, indirect=True, scope="session")


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    _results.miss(items)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Any:
    report = yield
    _results.add(item, report)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    _results.write(session)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    model_files.use_one_thread()
    return model_files.build(tmp_path_factory.mktemp("model"))


@pytest.fixture
def model(request: pytest.FixtureRequest, files: ModelFiles) -> ModelFiles:
    """For tests of what a model says: the scripted engine has none."""
    callspec = getattr(request.node, "callspec", None)
    if callspec is not None and not KINDS[callspec.params["engine"]].has_model:
        pytest.skip("it has no model")
    return files


class Fleet:
    """The engines of a session. Each is started when its turn comes near and left when it is
    over, so that no process idles while others are measured against a clock."""

    def __init__(self, factory: pytest.TempPathFactory, names: Sequence[str]) -> None:
        self._factory = factory
        self._names = names
        self._processes: dict[str, EngineProcess] = {}

    def serve(self, name: str) -> EngineProcess:
        """A running engine; the one after it is on its way. Skips without its environment."""
        process = self._start(name)
        if process is None:
            pytest.skip(f"no environment for {name}: `tuneyard env create {name}`")
        following = self._names[self._names.index(name) + 1 :]
        process.wait_ready()
        if following:
            self._start(following[0])
        return process

    def end(self) -> None:
        for process in self._processes.values():
            process.end()

    def _start(self, name: str) -> EngineProcess | None:
        if name not in self._processes and KINDS[name].python is not None:
            self._processes[name] = EngineProcess(KINDS[name], self._factory.mktemp(name))
        return self._processes.get(name)


@pytest.fixture(scope="session")
def fleet(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    callspecs = [getattr(item, "callspec", None) for item in request.session.items]
    wanted = {spec.params.get("engine") for spec in callspecs if spec is not None}
    fleet = Fleet(tmp_path_factory, [name for name in KINDS if name in wanted])
    yield fleet
    fleet.end()


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest, fleet: Fleet) -> Iterator[EngineProcess]:
    process = fleet.serve(request.param)
    yield process
    process.leave()


def start(name: str, folder: Path, **overrides: Any) -> EngineProcess:
    """A process of its own, for a test that ends it."""
    kind = KINDS[name]
    if kind.python is None:
        pytest.skip(f"no environment for {name}: `tuneyard env create {name}`")
    process = EngineProcess(kind, folder, **overrides)
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
    async with asyncio.timeout(GUARD_S):
        while True:
            stats = await client.next_stats()
            if not stats.running and not stats.waiting:
                return
