"""What a launcher does: start a process somewhere, watch it, end it with all it started."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    command: Callable[[int], Sequence[str]]
    """The command line, given the number of the descriptor whose end-of-file tells the process
    that its parent is gone."""
    log: Path
    """Takes what the process writes to standard output and error."""
    lock: Path | None = None
    """A file the process, and all it starts, hold locked while they live: a second process for the
    same lock does not start before they are gone, whoever started them."""
    env: dict[str, str] = field(default_factory=dict[str, str])
    """Added to this process's environment."""
    stdin: int | None = None
    """A descriptor of the caller's for the process's standard input; None is nothing."""
    life: int | None = None
    """The read end of the pipe that tells of the end of the process this one is to live as long as;
    None: as long as the caller."""


UNKNOWN_STATUS = 255
"""Of a process that another one started: only that one is told its status."""


class LockHeldError(Exception):
    """A process of an earlier start still lives."""


class Process(Protocol):
    @property
    def pid(self) -> int: ...

    async def wait(self) -> int:
        """The exit status; negative for the signal that ended it."""
        ...

    async def terminate(self, grace_s: float) -> int:
        """Asks it to leave, ends it and all it started after `grace_s`; returns its status."""
        ...


class Launcher(Protocol):
    async def start(self, spec: ProcessSpec) -> Process:
        """Raises LockHeldError, OSError."""
        ...

    def adopt(self, pid_file: Path) -> Process | None:
        """The living process that holds the pid file, whoever started it."""
        ...
