"""What of the configured models does not start: an engine worker, or an adapter of an entry. Told
by the supervisor to the gateway and the operator's terminal, through a file for each."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import msgspec

logger = logging.getLogger(__name__)

FOLDER_NAME = "not-starting"


class Part(msgspec.Struct, frozen=True):
    """Which part of what is configured a note is about."""

    model: str
    """The engines' model."""
    engine: str | None = None
    """`replica 2`, or `address 1`: as the entry lists them. None: an adapter of the entry."""
    adapter: str | None = None

    def __str__(self) -> str:
        if self.adapter is not None:
            return f"adapter {self.adapter} of {self.model}"
        return f"engine of {self.model} ({self.engine})"


class StartFailure(msgspec.Struct, frozen=True):
    """For the operator alone: the reason may hold paths and addresses."""

    part: Part
    reason: str
    """In one line."""
    log: str | None
    """The worker's log; None where no worker could be started at all."""
    failed_at: float


def note_failure(run_dir: Path, failure: StartFailure) -> None:
    """On a full disk it is in the supervisor's log alone."""
    path = _path(run_dir, failure.part)
    beside = path.with_suffix(".new")
    try:
        path.parent.mkdir(exist_ok=True)
        beside.write_bytes(msgspec.json.encode(failure))
        os.replace(beside, path)
    except OSError as error:
        logger.warning("a failure could not be noted", extra={"reason": str(error)})


def forget_failure(run_dir: Path, part: Part) -> None:
    _path(run_dir, part).unlink(missing_ok=True)


def forget_failures(run_dir: Path) -> None:
    """Those that an earlier supervisor noted."""
    for path in (run_dir / FOLDER_NAME).glob("*.json"):
        path.unlink(missing_ok=True)


def read_failures(run_dir: Path) -> tuple[StartFailure, ...]:
    """The latest of each part, in the order of their names."""
    failures: list[StartFailure] = []
    for path in (run_dir / FOLDER_NAME).glob("*.json"):
        try:
            failures.append(msgspec.json.decode(path.read_bytes(), type=StartFailure))
        except (OSError, msgspec.MsgspecError):
            continue  # just forgotten, or not one of ours
    return tuple(sorted(failures, key=lambda f: msgspec.json.encode(f.part)))


def failing_engines(run_dir: Path, model: str) -> tuple[str, ...]:
    """Those of the model's engines that do not start."""
    parts = (failure.part for failure in read_failures(run_dir))
    return tuple(part.engine for part in parts if part.model == model and part.engine is not None)


def _path(run_dir: Path, part: Part) -> Path:
    """Ids of models hold characters that file names cannot."""
    digest = hashlib.blake2b(msgspec.json.encode(part), digest_size=12).hexdigest()
    return run_dir / FOLDER_NAME / f"{digest}.json"
