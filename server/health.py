"""Probes and metrics, without a key. `/healthz`: the process answers. `/readyz`: the store answers
and every configured model has an engine; until then `downloads` says how far models from hubs are,
and `not_starting` which engines and adapters of which models fail at their start (why is in the
operator's terminal and logs), `hanging` which engines say nothing any more; `warnings` are for the
operator. `/metrics`: Prometheus text."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from server.engines.start_failures import read_failures
from server.hubs.arrivals import read_arrivals
from server.metrics import GatewayCollector, render_metrics
from server.models.chat_formats import template_warning
from server.store import Store
from server.store.counts import StoredCounts
from server.store.passing_faults import StoreUnavailableError

_STORE_TIMEOUT_S = 2.0
_LOW_BYTES = 1024 * 1024

router = APIRouter(tags=["Operations"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"description": "Not ready; `missing` says what is."}})
async def readyz(request: Request) -> Response:
    services: Any = request.app.services
    missing: list[str] = []
    try:
        async with asyncio.timeout(_STORE_TIMEOUT_S):
            await services.store.engines.list_ready()
    except Exception:
        missing.append("store")
    missing += [
        f"engine of {entry.id}"
        for entry in services.config.models
        if services.pool.any_usable(entry.id) is None
    ]
    hanging = [{"model": c.model_id, "engine": c.engine_id} for c in services.pool.hanging]
    failures = await asyncio.to_thread(read_failures, services.config.run_dir)
    not_starting = [msgspec.to_builtins(failure.part) for failure in failures]
    if missing:
        downloads = await asyncio.to_thread(read_arrivals, services.config.run_dir)
        answer = {
            "status": "starting",
            "missing": missing,
            "not_starting": not_starting,
            "hanging": hanging,
            "downloads": [{**msgspec.to_builtins(a), "state": a.state} for a in downloads],
        }
        return JSONResponse(answer, status_code=503)
    hellos = [connection.hello for connection in services.pool.connections()]
    warnings = {f"{hello.model}: {warning}" for hello in hellos for warning in hello.warnings}
    lacking = (template_warning(services.config.model(h.model), h) for h in hellos)
    warnings.update(warning for warning in lacking if warning is not None)
    if await asyncio.to_thread(_is_full, services.config.data):
        warnings.add("The disk of the data directory is full.")
    answer = {
        "status": "ok",
        "warnings": sorted(warnings),
        "not_starting": not_starting,
        "hanging": hanging,
    }
    return JSONResponse(answer)


def _is_full(folder: Path) -> bool:
    return shutil.disk_usage(folder).free < _LOW_BYTES


@router.get("/metrics", include_in_schema=False)
async def metrics(request: Request) -> Response:
    services: Any = request.app.services
    collector = GatewayCollector(
        services.access_log,
        services.pool,
        services.accountant,
        services.runner.lines,
        request.app.connections,
        await _stored_counts(services.store),
    )
    return Response(render_metrics(collector), media_type="text/plain; version=0.0.4")


async def _stored_counts(store: Store) -> StoredCounts:
    """Empty while the store does not answer: the gateway's own numbers are told all the same."""
    try:
        async with asyncio.timeout(_STORE_TIMEOUT_S):
            return await store.counts()
    except (TimeoutError, StoreUnavailableError):
        return StoredCounts()
