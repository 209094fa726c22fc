"""Probes. `/healthz`: the process answers. `/readyz`: it can serve requests."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter(tags=["Operations"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}
