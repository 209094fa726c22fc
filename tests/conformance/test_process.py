"""An engine's processes: they die together, and what was under way is told."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.conftest import start
from tests.conformance.engines import KINDS, EngineProcess
from tests.conformance.model_files import PROMPTS
from tests.engine.conftest import GUARD_S
from workers.contract.messages import FailureKind
from workers.contract.parts import Tokens

pytestmark = [pytest.mark.engine_env, pytest.mark.slow]
ENGINES = ("vllm", "sglang")


def _scheduler(engine: EngineProcess) -> int:
    """The process that runs the model: the biggest child."""

    def resident(pid: int) -> int:
        try:
            return int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except OSError:
            return 0

    return max(engine.children(), key=resident)


@pytest.fixture(scope="module")
def doomed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, EngineProcess]]:
    """One of each, started side by side, for a test that ends it."""
    engines = {
        name: EngineProcess(KINDS[name], tmp_path_factory.mktemp(name))
        for name in ENGINES
        if KINDS[name].python is not None
    }
    yield engines
    for engine in engines.values():
        engine.end()


@pytest.mark.parametrize("name", ENGINES)
async def test_the_death_of_the_engine_fails_its_requests_and_ends_the_worker(
    name: str, doomed: dict[str, EngineProcess], tmp_path: Path
) -> None:
    if name not in doomed:
        pytest.skip(f"no environment for {name}: `tuneyard env create {name}`")
    if doomed[name].process.poll() is not None:  # of an earlier try
        doomed[name] = EngineProcess(KINDS[name], tmp_path)
    engine = doomed[name]
    try:
        await asyncio.to_thread(engine.wait_ready)
        client = await engine.connect()
        requests = [
            client.start([Tokens(PROMPTS[0])], ignore_eos=True, max_tokens=1900) for _ in range(64)
        ]
        await asyncio.wait_for(client.queues[requests[0]].get(), GUARD_S)
        os.kill(_scheduler(engine), signal.SIGKILL)
        ends = [(await client.finish(request)).end for request in requests]
        assert any(getattr(end, "kind", None) is FailureKind.ENGINE_DEAD for end in ends)
        assert await engine.exit_status(GUARD_S) == 1
        await client.close()
    finally:
        engine.end()
    assert engine.children() == []


@pytest.mark.parametrize("name", ENGINES)
def test_a_setting_the_engine_does_not_know_is_refused_at_start(name: str, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no_such_setting"):
        start(name, tmp_path / "three", settings={"no_such_setting": 1})
