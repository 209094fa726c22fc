"""Rows that tests start from."""

from __future__ import annotations

import time

from server.store import Store
from server.store.identifiers import random_id
from server.store.records import (
    File,
    Job,
    JobPlan,
    JobStatus,
    Model,
    ModelKind,
    NewEvent,
    Project,
)

CREATED = NewEvent("Created fine-tuning job")
STARTED = NewEvent("Fine-tuning job started")
INTERRUPTED = NewEvent("Interrupted")


async def make_project(store: Store, name: str = "Acme Inc") -> Project:
    return await store.projects.ensure(random_id("proj_"), name)


def new_job(project: Project, **plan: object) -> Job:
    values: dict[str, object] = {
        "model": "base",
        "base": "base",
        "engine_model": "base",
        "weights_path": "/m",
        "adapter_path": None,
        "training_file": "file-1",
        "training_blob": "jobs/1/training.jsonl",
        "validation_file": None,
        "validation_blob": None,
        "method": {"type": "supervised", "supervised": {"hyperparameters": {}}},
        "seed": 1,
        "suffix": None,
        "metadata": None,
        "reserved_model": f"ft:base:{project.slug}::{random_id('', 8)}",
    }
    values.update(plan)
    return Job(
        id=random_id("ftjob-"),
        project_id=project.id,
        plan=JobPlan(**values),  # type: ignore[arg-type]
        status=JobStatus.VALIDATING_FILES,
        created_at=int(time.time()),
        finished_at=None,
        estimated_finish=None,
        fine_tuned_model=None,
        hyperparameters={"n_epochs": "auto"},
        trained_tokens=None,
        result_files=(),
        error=None,
        owner=None,
        trainer_deaths=0,
        train_seq=0,
    )


async def make_job(store: Store, project: Project, **plan: object) -> Job:
    job = new_job(project, **plan)
    assert await store.jobs.create(job, CREATED) is None
    return job


async def make_queued(store: Store, project: Project, **plan: object) -> Job:
    job = await make_job(store, project, **plan)
    claimed = await store.progress.claim_validation("validator", 60)
    assert claimed is not None
    assert claimed.id == job.id
    assert await store.progress.accept("validator", job.id, {"n_epochs": 3}, [])
    return job


def new_model(job: Job, model_id: str, uid: int, kind: ModelKind = ModelKind.ADAPTER) -> Model:
    return Model(
        id=model_id,
        project_id=job.project_id,
        kind=kind,
        parent="base",
        base="base",
        engine_model="base",
        path="/adapters/x",
        adapter_uid=uid,
        created_at=int(time.time()),
        owned_by="acme",
        job_id=job.id,
    )


def new_file(project_id: str, **changes: object) -> File:
    values: dict[str, object] = {
        "id": random_id("file-"),
        "project_id": project_id,
        "filename": "a.jsonl",
        "purpose": "fine-tune",
        "num_bytes": 3,
        "status": "processed",
        "status_details": None,
        "created_at": int(time.time()),
        "expires_at": None,
        "blob": "files/x",
    }
    values.update(changes)
    return File(**values)  # type: ignore[arg-type]
