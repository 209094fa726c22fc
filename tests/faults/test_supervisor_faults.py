"""The supervisor stopped, killed or told to leave while chats stream: engines live on, a successor
takes them over, and with the root gone none is left."""

from __future__ import annotations

import signal
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faults.serving import Processes, go_on, is_gone, serving, stop
from tests.gateway.conftest import user
from tests.jobs.live import wait_until


@pytest.fixture
def processes(tmp_path: Path) -> Generator[Processes]:
    with serving(tmp_path) as running:
        yield running


def stream(processes: Processes) -> list[Any]:
    with processes.service.client() as client:
        chunks = client.chat.completions.create(
            model="scripted-model", messages=user("some time"), stream=True
        )
        return [chunk.choices[0] for chunk in chunks]


def check_whole(ticks: list[Any]) -> None:
    assert "".join(tick.delta.content or "" for tick in ticks).count("tick") == 100
    assert ticks[-1].finish_reason == "stop"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "told"])
def test_a_supervisor_that_ends_leaves_its_engine_to_the_next(
    processes: Processes, number: signal.Signals
) -> None:
    engine, supervisor = processes.engine, processes.supervisor
    with ThreadPoolExecutor() as threads:
        ticks = threads.submit(stream, processes)
        supervisor.send_signal(number)
        processes.successor(supervisor)
        assert processes.answers()
        check_whole(ticks.result())
    processes.wait_taken_over(engine)
    assert [other.pid for other in processes.engines] == [engine.pid]
    engine.kill()
    wait_until(lambda: processes.engines != [] and processes.engine.pid != engine.pid)
    wait_until(processes.answers)


def test_a_stopped_supervisor_is_missed_by_no_chat_and_by_no_new_gateway(
    processes: Processes,
) -> None:
    engine, supervisor = processes.engine, processes.supervisor
    gateway = processes.child("gateway")
    assert gateway is not None
    with ThreadPoolExecutor() as threads:
        ticks = threads.submit(stream, processes)
        stop(supervisor)
        processes.make_rows_stale()
        check_whole(ticks.result())
    assert processes.answers()
    gateway.kill()
    processes.successor(gateway, "gateway")
    assert processes.answers()
    go_on(supervisor)
    assert processes.engine.pid == engine.pid
    assert processes.supervisor.pid == supervisor.pid


@pytest.mark.parametrize(
    "order",
    [
        ["root"],
        ["supervisor", "root"],
        ["root", "supervisor"],
        ["supervisor", "take over", "root"],
        ["supervisor", "take over", "supervisor", "root"],
        ["engine", "supervisor", "root"],
        ["gateway", "supervisor", "take over", "gateway", "root"],
    ],
    ids=" ".join,
)
def test_no_order_of_kills_leaves_an_orphan(processes: Processes, order: list[str]) -> None:
    family = [processes.root, *processes.root.children(recursive=True), *processes.engines]
    engine, supervisor = processes.engine, processes.supervisor
    for step in order:
        if step == "take over":
            processes.wait_taken_over(engine)
            family += processes.root.children(recursive=True)
        elif step == "root":
            processes.root.kill()
            processes.service.process.wait()
        else:
            victim = engine if step == "engine" else processes.child(step)
            if victim is None and step == "supervisor":
                victim = supervisor  # without its root it is still on its way out
            with suppress(psutil.NoSuchProcess):
                if victim is not None:
                    victim.kill()
    wait_until(lambda: all(is_gone(process) for process in family))
    wait_until(lambda: not processes.engines)


def test_an_engine_that_outlived_its_root_stopped_is_ended_by_the_next_start(
    processes: Processes, tmp_path: Path
) -> None:
    engine = processes.engine
    stop(engine)
    processes.root.kill()
    processes.service.process.wait()
    with serving(tmp_path) as again:
        assert is_gone(engine)
        assert again.answers()
        assert again.engine.pid != engine.pid


def test_ctrl_c_ends_everything_though_the_supervisor_is_stopped(processes: Processes) -> None:
    engine, supervisor = processes.engine, processes.supervisor
    stop(supervisor)
    processes.root.send_signal(signal.SIGINT)
    assert processes.service.process.wait(120) == 0
    wait_until(lambda: is_gone(engine) and is_gone(supervisor))


def test_a_worker_that_serves_nothing_wanted_is_ended(processes: Processes) -> None:
    """The settings that a successor finds are others: as if a model had gone."""
    engine, supervisor = processes.engine, processes.supervisor
    resolved = processes.data / "run" / "config.json"
    resolved.write_text(resolved.read_text().replace('"max_num_seqs":32', '"max_num_seqs":31'))
    supervisor.kill()
    processes.successor(supervisor)
    wait_until(lambda: is_gone(engine))
    wait_until(lambda: len(processes.engines) == 1)
    wait_until(processes.answers)
    assert isinstance(processes.engine, psutil.Process)
