"""Engine workers that an earlier supervisor started and that live on.

Each start has a spec file, a pid file and a socket, named by the engine's id (`engine_sockets`).
A supervisor takes over those that serve what it wants served, and ends the others. Whoever starts
or stops the whole service ends all of them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from server.launchers import Launcher, Process
from server.supervisor.engine_sockets import socket_path
from workers.contract.pid_files import holder

_OF_A_START = ("listen", "parent_fd", "pid_file")
"""What differs between two workers that serve the same."""


@dataclass(frozen=True, slots=True)
class EngineFiles:
    """Of one start of an engine worker."""

    run_dir: Path
    engine_id: str

    @property
    def spec(self) -> Path:
        return self.run_dir / f"{self.engine_id}.json"

    @property
    def pid(self) -> Path:
        return self.run_dir / f"{self.engine_id}.pid"

    @property
    def socket(self) -> Path:
        return socket_path(self.run_dir, self.engine_id)

    def remove(self) -> None:
        for path in (self.spec, self.socket, self.pid):
            path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class LeftWorker:
    files: EngineFiles
    spec: dict[str, Any]
    process: Process

    @property
    def model_id(self) -> str:
        return str(self.spec["model_id"])


class LeftWorkers:
    def __init__(self, run_dir: Path, launcher: Launcher) -> None:
        self._run_dir = run_dir
        self._launcher = launcher
        self._found: list[LeftWorker] = []

    def find(self) -> list[str]:
        """The engines' ids. What dead workers left is removed."""
        for files in _all_files(self._run_dir):
            worker = self._living(files)
            if worker is None:
                files.remove()
            else:
                self._found.append(worker)
        return [worker.files.engine_id for worker in self._found]

    def _living(self, files: EngineFiles) -> LeftWorker | None:
        """None too for one that has not begun: it finds its spec removed and leaves."""
        process = self._launcher.adopt(files.pid)
        if process is None:
            files.spec.unlink(missing_ok=True)
            process = self._launcher.adopt(files.pid)
        if process is None:
            return None
        try:
            spec: dict[str, Any] = msgspec.json.decode(files.spec.read_bytes())
        except (OSError, msgspec.MsgspecError):
            spec = {"model_id": ""}  # taken back: it leaves, or is ended as none of ours
        return LeftWorker(files, spec, process)

    def take(self, spec: dict[str, Any]) -> LeftWorker | None:
        """One that was started with such a spec; it is the caller's by then."""
        wanted = _lasting(msgspec.json.decode(msgspec.json.encode(spec)))
        for worker in self._found:
            if _lasting(worker.spec) == wanted:
                self._found.remove(worker)
                return worker
        return None

    def take_others(self, but: Collection[str]) -> list[LeftWorker]:
        """Those that nobody has taken, to be ended; without those of the models `but`."""
        others = [worker for worker in self._found if worker.model_id not in but]
        self._found = [worker for worker in self._found if worker.model_id in but]
        return others


def end_left_workers(run_dir: Path) -> None:
    """All at once, whoever started them. Blocking, shortly."""
    for files in _all_files(run_dir):
        files.spec.unlink(missing_ok=True)
        pid = holder(files.pid)
        if pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        files.remove()


def _all_files(run_dir: Path) -> list[EngineFiles]:
    names = {path.stem for suffix in ("json", "pid") for path in run_dir.glob(f"engine-*.{suffix}")}
    return [EngineFiles(run_dir, name) for name in sorted(names)]


def _lasting(spec: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in spec.items() if name not in _OF_A_START}
