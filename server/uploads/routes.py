"""`/v1/uploads` over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request

from server.auth import Caller
from server.bodies import json_of
from server.openapi import json_body, refusals
from server.uploads.schemas import CompleteUpload, CreateUpload, PartObject, UploadObject
from server.uploads.service import UploadService

router = APIRouter(prefix="/v1/uploads", tags=["Uploads"])

_PART_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["data"],
                    "properties": {"data": {"type": "string", "format": "binary"}},
                }
            }
        },
    }
}


def _service_of(request: Request) -> UploadService:
    service: UploadService = request.app.services.uploads
    return service


Service = Annotated[UploadService, Depends(_service_of)]


@router.post(
    "", openapi_extra=json_body(CreateUpload), summary="Create an upload", responses=refusals(507)
)
async def create_upload(
    wanted: Annotated[CreateUpload, json_of(CreateUpload)], caller: Caller, service: Service
) -> UploadObject:
    """Announce a file that comes in parts within the hour."""
    return UploadObject.of(await service.create(caller.project.id, wanted))


@router.post(
    "/{upload_id}/parts", openapi_extra=_PART_BODY, summary="Add a part", responses=refusals(507)
)
async def add_upload_part(
    upload_id: str, request: Request, caller: Caller, service: Service
) -> PartObject:
    """Add up to 64 MB. Parts may come in parallel, in any order, and more than once."""
    content_type = request.headers.get("content-type", "")
    part = await service.receive_part(caller.project.id, upload_id, content_type, request.stream())
    return PartObject.of(part)


@router.post(
    "/{upload_id}/complete",
    openapi_extra=json_body(CompleteUpload),
    summary="Complete an upload",
    responses=refusals(507),
)
async def complete_upload(
    upload_id: str,
    wanted: Annotated[CompleteUpload, json_of(CompleteUpload)],
    caller: Caller,
    service: Service,
) -> UploadObject:
    """Make the file of the parts named, in their order."""
    upload, file = await service.complete(caller.project.id, upload_id, wanted)
    return UploadObject.of(upload, file)


@router.post("/{upload_id}/cancel", summary="Cancel an upload", responses=refusals(507))
async def cancel_upload(upload_id: str, caller: Caller, service: Service) -> UploadObject:
    """Give up an upload and its parts."""
    return UploadObject.of(await service.cancel(caller.project.id, upload_id))
