"""How far each model's download is, told by the supervisor to the gateway through one file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

FILE_NAME = "downloads.json"


class Arrival(msgspec.Struct, frozen=True):
    model: str
    """Its id in the configuration."""
    source: str
    done_bytes: int = 0
    total_bytes: int = 0
    """0 until the hub has said how much it will be."""
    error: str | None = None
    """Why the last try failed; another follows."""

    @property
    def state(self) -> str:
        """For the operator."""
        return self.progress if self.error is None else f"{self.progress}: {self.error}"

    @property
    def progress(self) -> str:
        """For callers, who are not told the operator's troubles."""
        if self.error is not None:
            return "not downloaded yet"
        if not self.total_bytes:
            return "downloading"
        return f"downloading {100 * self.done_bytes // self.total_bytes} %"


def write_arrivals(run_dir: Path, arrivals: Iterable[Arrival]) -> None:
    """Readers see the old list or the new one."""
    beside = run_dir / f"{FILE_NAME}.new"
    beside.write_bytes(msgspec.json.encode(list(arrivals)))
    os.replace(beside, run_dir / FILE_NAME)


def read_arrivals(run_dir: Path) -> list[Arrival]:
    try:
        return msgspec.json.decode((run_dir / FILE_NAME).read_bytes(), type=list[Arrival])
    except (OSError, msgspec.MsgspecError):
        return []
