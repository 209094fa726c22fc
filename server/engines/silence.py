"""Tells engine workers that hang, or were cut off without a word, by the reports that stop coming.

Silence is counted in ticks of this process, so that a pause of its own is nobody's silence.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from server.engines.client import EngineConnection

logger = logging.getLogger(__name__)

TICK_S = 0.5
SUSPECT_AFTER_S = 3.0
"""A worker reports about once a second; one that has been silent for so long gets no new request
while another can take it."""
HANGS_AFTER_S = 6.0
"""It gets no new request at all, and those whose callers have seen nothing yet go elsewhere."""
LOST_AFTER_S = 20.0
"""The connection is given up: requests under way have failed."""


def listen(connections: Iterable[EngineConnection]) -> set[EngineConnection]:
    """Once each `TICK_S`. Returns those that are suspect."""
    suspects: set[EngineConnection] = set()
    for connection in connections:
        if connection.closed:
            continue
        connection.silent_s += TICK_S
        if connection.silent_s > SUSPECT_AFTER_S:
            suspects.add(connection)
        details = {"engine": connection.engine_id, "model": connection.model_id}
        if connection.silent_s > LOST_AFTER_S:
            logger.error("engine is given up", extra=details)
            connection.abandon()
        elif connection.silent_s > HANGS_AFTER_S and not connection.hangs:
            logger.error("engine hangs", extra=details)
            connection.report_silence()
    return suspects
