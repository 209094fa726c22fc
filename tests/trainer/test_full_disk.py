"""A trainer that finds no room: it waits, says so, goes on, and ends as it would have."""

from __future__ import annotations

import threading
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.faults.disks import SmallDisk, small_disk
from tests.jobs.live import wait_until
from tests.trainer.conftest import Workspace, events_of, train
from workers.contract.training import Completed, Step, TrainSpec, Warned
from workers.trainer.room import GOES_ON, WAITS
from workers.trainer.run import run
from workers.trainer.stopping import StopRequest

NUM_STEPS = 60


@pytest.fixture
def disk(tmp_path: Path) -> Generator[SmallDisk]:
    with small_disk(tmp_path / "disk", 8 * 1024 * 1024) as disk:
        yield disk


class Running:
    """A run in a thread."""

    def __init__(self, spec: TrainSpec) -> None:
        self.spec = spec
        self.stop = StopRequest()
        self._thread = threading.Thread(target=run, args=(spec, self.stop))
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def join(self) -> None:
        self._thread.join(120)
        assert not self.is_alive


def spec_on(disk: SmallDisk, workspace: Workspace) -> TrainSpec:
    return workspace.spec(output_dir="disk/run", max_steps=NUM_STEPS, save_steps=2)


def table(spec: TrainSpec) -> list[tuple[int, float]]:
    return [(e.step, e.metrics["train_loss"]) for e in events_of(spec) if isinstance(e, Step)]


def warnings(spec: TrainSpec) -> list[str]:
    return [event.message for event in events_of(spec) if isinstance(event, Warned)]


@pytest.fixture
def expected(workspace: Workspace) -> list[tuple[int, float]]:
    spec = workspace.spec(output_dir="elsewhere", max_steps=NUM_STEPS, save_steps=2)
    train(spec)
    return table(spec)


def wait_until_waiting(spec: TrainSpec) -> None:
    """It says so where its file has room for that, and touches the file where not."""
    events = Path(spec.output_dir) / "events.ndjson"
    wait_until(events.exists, interval_s=0.01)
    size, touched = events.stat().st_size, events.stat().st_mtime_ns

    def waits() -> bool:
        now = events.stat()
        is_touched = now.st_mtime_ns > touched and now.st_size == size
        return is_touched or WAITS in events.read_text()

    wait_until(waits)


def check_whole(spec: TrainSpec, expected: list[tuple[int, float]]) -> None:
    assert table(spec) == expected
    events = events_of(spec)
    assert isinstance(events[-1], Completed)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    output = Path(spec.output_dir)
    assert not list(output.rglob("*.partial"))
    assert (output / "model" / "adapter_model.safetensors").stat().st_size > 0


def test_a_run_that_begins_on_a_full_disk_waits_and_is_whole(
    workspace: Workspace, disk: SmallDisk, expected: list[tuple[int, float]]
) -> None:
    spec = spec_on(disk, workspace)
    disk.fill()
    running = Running(spec)
    wait_until_waiting(spec)
    assert running.is_alive
    disk.make_room()
    running.join()
    check_whole(spec, expected)


def test_a_disk_that_fills_while_it_trains_holds_the_run_up_and_does_not_end_it(
    workspace: Workspace, disk: SmallDisk, expected: list[tuple[int, float]]
) -> None:
    spec = spec_on(disk, workspace)
    spec_path = Path(spec.output_dir)
    running = Running(spec)
    wait_until(lambda: (spec_path / "checkpoints" / "step-2").exists(), interval_s=0.002)
    disk.fill()
    wait_until_waiting(spec)
    partials = [path for path in spec_path.rglob("*.partial") if path.is_file()]
    assert not partials, "what could not be written takes no room"
    disk.make_room()
    running.join()
    check_whole(spec, expected)
    told = warnings(spec)
    assert told.count(WAITS) == told.count(GOES_ON) >= 1


def test_a_run_is_stopped_while_it_waits_and_goes_on_later(
    workspace: Workspace, disk: SmallDisk, expected: list[tuple[int, float]]
) -> None:
    spec = spec_on(disk, workspace)
    running = Running(spec)
    wait_until(lambda: bool(list(Path(spec.output_dir).glob("state/step-2.pt"))), interval_s=0.002)
    disk.fill()
    wait_until_waiting(spec)
    running.stop.set()
    running.join()
    disk.make_room()
    run(spec, StopRequest())
    assert table(spec) == expected
    assert isinstance(events_of(spec)[-1], Completed)
