"""`/v1/fine_tuning/alpha/graders` over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request

from server.auth import Caller
from server.bodies import json_of
from server.graders.running import GraderRunner
from server.graders.schemas import GraderRun, RunGrader, ValidatedGrader, ValidateGrader
from server.openapi import json_body, refusals

router = APIRouter(prefix="/v1/fine_tuning/alpha/graders", tags=["Fine-tuning"])


def _runner_of(request: Request) -> GraderRunner:
    runner: GraderRunner = request.app.services.graders
    return runner


@router.post(
    "/run", openapi_extra=json_body(RunGrader), responses=refusals(429), summary="Run a grader"
)
async def run_grader(
    wanted: Annotated[RunGrader, json_of(RunGrader)],
    caller: Caller,
    runner: Annotated[GraderRunner, Depends(_runner_of)],
) -> GraderRun:
    """Grade one answer. Nothing is kept of it."""
    return await runner.run(caller.project.id, wanted)


@router.post("/validate", openapi_extra=json_body(ValidateGrader), summary="Validate a grader")
async def validate_grader(
    wanted: Annotated[ValidateGrader, json_of(ValidateGrader)], _caller: Caller
) -> ValidatedGrader:
    """Say whether a grader can be run: a wrong one is a 400 that names the field."""
    return ValidatedGrader(grader=wanted.grader.model_dump(mode="json", exclude_unset=True))
