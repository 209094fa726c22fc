"""What backends share whose model pools and does not generate."""

from __future__ import annotations

from workers.contract.messages import FailureKind
from workers.engine.backend import AdapterHost, RefusedError, Work
from workers.engine.hf.task import Task


class PoolsOnly:
    """The part of a backend that is about sequences: there are none."""

    _task: Task

    async def submit(self, work: Work) -> None:
        what = "embeds" if self._task is Task.EMBED else "scores"
        raise RefusedError(
            FailureKind.UNSUPPORTED, f"This model only {what} text; it cannot generate.", "model"
        )

    def abort(self, key: int) -> None:
        """No sequence is ever accepted."""

    @property
    def adapters(self) -> AdapterHost | None:
        return None
