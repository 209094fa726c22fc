"""`/v1/files` over HTTP."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, Query, Request
from starlette.responses import Response, StreamingResponse

from server.auth import Caller
from server.files.names import content_disposition
from server.files.schemas import FileDeleted, FileList, FileObject, Purpose
from server.files.service import FileService, Upload, no_such_file
from server.openapi import refusals
from server.rows import Rows
from server.store.cursors import UnknownCursorError

router = APIRouter(prefix="/v1/files", tags=["Files"])

MAX_PAGE = 10_000

_UPLOAD_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": [p.value for p in Purpose]},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {
                            "type": "integer",
                            "minimum": 3600,
                            "maximum": 2_592_000,
                        },
                    },
                }
            }
        },
    }
}


def _service_of(request: Request) -> FileService:
    service: FileService = request.app.services.files
    return service


Service = Annotated[FileService, Depends(_service_of)]


@router.post(
    "", response_model=FileObject, openapi_extra=_UPLOAD_BODY, responses=refusals(409, 507)
)
async def upload_file(
    request: Request,
    caller: Caller,
    service: Service,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> Response:
    """Upload a file. Line files (`fine-tune`, `batch`) are checked to hold one JSON object a
    line."""
    upload = Upload(caller.project.id, request.headers.get("content-type", ""), idempotency_key)
    answer = await service.receive(upload, request.stream())
    return Response(answer, media_type="application/json")


@router.get("", response_model_exclude_none=False, responses=refusals(404))
async def list_files(
    caller: Caller,
    rows: Rows,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = MAX_PAGE,
    order: Literal["asc", "desc"] = "desc",
    purpose: str | None = None,
) -> FileList:
    """List files, newest first unless `order` says otherwise."""
    try:
        page = await rows.files.page(
            caller.project.id,
            after=after,
            limit=limit,
            ascending=order == "asc",
            purpose=purpose,
        )
    except UnknownCursorError as error:
        raise no_such_file(error.after) from None
    data = [FileObject.of(file) for file in page.items]
    return FileList.of(data, has_more=page.has_more)


@router.get("/{file_id}", response_model_exclude_none=True)
async def retrieve_file(file_id: str, caller: Caller, service: Service) -> FileObject:
    return FileObject.of(await service.find(caller.project.id, file_id))


@router.delete("/{file_id}", responses=refusals(507))
async def delete_file(file_id: str, caller: Caller, service: Service) -> FileDeleted:
    """Delete a file. A job that was created with it is not affected."""
    await service.delete(caller.project.id, file_id)
    return FileDeleted(id=file_id)


@router.get(
    "/{file_id}/content",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {}}}},
)
async def retrieve_file_content(file_id: str, caller: Caller, service: Service) -> Response:
    """The bytes as they were uploaded; result files are plain CSV."""
    file = await service.find(caller.project.id, file_id)
    first, rest = await service.open_content(file)
    return StreamingResponse(
        _joined(first, rest),
        media_type="application/octet-stream",
        headers={
            "content-disposition": content_disposition(file.filename),
            "content-length": str(file.num_bytes),
        },
    )


async def _joined(first: bytes, rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk
