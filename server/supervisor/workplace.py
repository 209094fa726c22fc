"""What all engine slots of a supervisor share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from server.launchers import Launcher
from server.store import Store
from server.supervisor.departure import Departure
from server.supervisor.engine_rows import EngineRows
from server.supervisor.left_workers import LeftWorkers
from server.supervisor.patience import Patience


@dataclass(frozen=True, slots=True)
class Workplace:
    store: Store
    rows: EngineRows
    launcher: Launcher
    left: LeftWorkers
    departure: Departure
    patience: Patience
    run_dir: Path
    logs_dir: Path
