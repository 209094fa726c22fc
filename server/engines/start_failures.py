"""Models whose engine does not start, told by the supervisor to the gateway and the operator's
terminal through one file for each model."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec

FOLDER_NAME = "not-starting"


class StartFailure(msgspec.Struct, frozen=True):
    """For the operator alone: the reason may hold paths."""

    model: str
    reason: str
    """In one line."""
    log: str | None
    """The worker's log; None where no worker could be started at all."""
    failed_at: float


def note_failure(run_dir: Path, failure: StartFailure) -> None:
    path = _path(run_dir, failure.model)
    path.parent.mkdir(exist_ok=True)
    beside = path.with_suffix(".new")
    beside.write_bytes(msgspec.json.encode(failure))
    os.replace(beside, path)


def forget_failure(run_dir: Path, model: str) -> None:
    _path(run_dir, model).unlink(missing_ok=True)


def forget_failures(run_dir: Path) -> None:
    """Those that an earlier supervisor noted."""
    for path in (run_dir / FOLDER_NAME).glob("*.json"):
        path.unlink(missing_ok=True)


def read_failures(run_dir: Path) -> dict[str, StartFailure]:
    """The latest of each model, by its id."""
    failures: dict[str, StartFailure] = {}
    for path in (run_dir / FOLDER_NAME).glob("*.json"):
        try:
            failure = msgspec.json.decode(path.read_bytes(), type=StartFailure)
        except (OSError, msgspec.MsgspecError):
            continue  # just forgotten, or not one of ours
        failures[failure.model] = failure
    return failures


def _path(run_dir: Path, model: str) -> Path:
    """Ids of fine-tunes hold characters that file names cannot."""
    digest = hashlib.blake2b(model.encode(), digest_size=12).hexdigest()
    return run_dir / FOLDER_NAME / f"{digest}.json"
