"""The life of a job: the one table of transitions, and the one statement that performs them.

    create -> validating_files -> queued -> running -> succeeded
                     |            |  ^       |  \\-> failed
                     v            |  |resume v
                   failed         |  +---- paused
      validating_files, queued, running, paused -> cancelled

Every change is compare-and-set: it happens only from a state that the table allows, so of two
racing changes one loses and learns it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.store.records import JobStatus
from server.store.tables import jobs
from server.store.webhooks import insert_event

_S = JobStatus


class JobAction(StrEnum):
    ACCEPT = "accept"
    """The files are valid."""
    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    SUCCEED = "succeed"
    FAIL = "fail"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class Transition:
    sources: frozenset[JobStatus]
    target: JobStatus


TRANSITIONS: dict[JobAction, Transition] = {
    JobAction.ACCEPT: Transition(frozenset({_S.VALIDATING_FILES}), _S.QUEUED),
    JobAction.START: Transition(frozenset({_S.QUEUED}), _S.RUNNING),
    JobAction.PAUSE: Transition(frozenset({_S.RUNNING}), _S.PAUSED),
    JobAction.RESUME: Transition(frozenset({_S.PAUSED}), _S.QUEUED),
    JobAction.SUCCEED: Transition(frozenset({_S.RUNNING}), _S.SUCCEEDED),
    JobAction.FAIL: Transition(frozenset({_S.VALIDATING_FILES, _S.QUEUED, _S.RUNNING}), _S.FAILED),
    JobAction.CANCEL: Transition(
        frozenset({_S.VALIDATING_FILES, _S.QUEUED, _S.RUNNING, _S.PAUSED}), _S.CANCELLED
    ),
}


async def transition(
    connection: AsyncConnection,
    action: JobAction,
    job_id: str,
    *conditions: ColumnElement[bool],
    **values: Any,
) -> bool:
    """Moves the job and writes `values` with it, within a writing transaction; False (and nothing
    written) when it is not in a state for that, or `conditions` do not hold. An ending leaves the
    event that webhooks are told of."""
    rule = TRANSITIONS[action]
    result = await connection.execute(
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.status.in_(rule.sources), *conditions)
        .values(status=rule.target.value, **values)
    )
    if result.rowcount == 1 and rule.target.is_terminal:
        project_id = select(jobs.c.project_id).where(jobs.c.id == job_id).scalar_subquery()
        kind = f"fine_tuning.job.{rule.target.value}"
        await insert_event(connection, kind, project_id, job_id)
    return result.rowcount == 1
