"""What a worker's log says of its end."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, cast

_TAIL_BYTES = 64 * 1024
_MAX_REASON_CHARS = 500
_EXCEPTION = re.compile(r"(\w+\.)*[A-Z]\w*(Error|Exception|Exit|Interrupt)(: .*)?$")
"""The last line of a traceback, which the interpreter writes bare."""


def last_error(log: Path) -> str | None:
    """The last error in the log, in one line: a JSON record's, or an exception's."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        if (reason := _reason(line)) is not None:
            return " ".join(reason.split())[:_MAX_REASON_CHARS]
    return None


def _reason(line: str) -> str | None:
    if not line.startswith("{"):
        return line if _EXCEPTION.match(line) else None
    try:
        read: Any = json.loads(line)
    except ValueError:
        return None
    record = cast(dict[str, Any], read)
    if record.get("level") not in ("error", "critical"):
        return None
    if traceback := str(record.get("traceback", "")).strip():
        return traceback.splitlines()[-1]
    return str(record.get("reason") or record.get("event"))
