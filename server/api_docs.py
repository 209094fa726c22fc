"""The API document and the page that shows it. The page's files come from a package, so it works
without the internet and tells nobody who reads it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import FileResponse, Response

router = APIRouter(include_in_schema=False)

_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'"
)


class ApiDocument:
    """Made once, when it is first asked for, in a thread: it takes seconds."""

    def __init__(self, build: Callable[[], dict[str, Any]]) -> None:
        self._build = build
        self._making: asyncio.Task[bytes] | None = None

    async def read(self) -> bytes:
        if self._making is None:
            self._making = asyncio.create_task(asyncio.to_thread(self._make))
        return await asyncio.shield(self._making)

    def _make(self) -> bytes:
        return msgspec.json.encode(self._build())


@lru_cache(maxsize=1)
def _folder() -> Path:
    spec = find_spec("fastapi_offline")
    assert spec is not None, "a dependency of ours"
    assert spec.origin is not None, "a package with files"
    return Path(spec.origin).parent / "static"


@router.get("/openapi.json")
async def read_document(request: Request) -> Response:
    document: ApiDocument = request.app.api_document
    return Response(await document.read(), media_type="application/json")


@router.get("/docs")
async def show_document(request: Request) -> Response:
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title=request.app.title,
        swagger_js_url="/docs/swagger-ui-bundle.js",
        swagger_css_url="/docs/swagger-ui.css",
        swagger_favicon_url="/docs/favicon.png",
    )
    page.headers["content-security-policy"] = _POLICY
    return page


@router.get("/docs/swagger-ui-bundle.js")
async def send_script() -> Response:
    return FileResponse(_folder() / "swagger-ui-bundle.js", media_type="text/javascript")


@router.get("/docs/swagger-ui.css")
async def send_style() -> Response:
    return FileResponse(_folder() / "swagger-ui.css", media_type="text/css")


@router.get("/docs/favicon.png")
async def send_icon() -> Response:
    return FileResponse(_folder() / "favicon.png", media_type="image/png")
