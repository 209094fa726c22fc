"""Uploads on the wire."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from server.files.schemas import ExpiresAfter, FileObject, Purpose
from server.store.records import File, Upload, UploadPart
from server.wire import RequestBody, ResponseBody, several

MAX_PARTS = 10_000
_Name = Annotated[str, Field(min_length=1, max_length=1024)]


class CreateUpload(RequestBody):
    filename: _Name
    purpose: Purpose
    bytes: Annotated[int, Field(ge=1, le=2**63 - 1)]
    mime_type: _Name
    expires_after: ExpiresAfter | None = None


class CompleteUpload(RequestBody):
    part_ids: Annotated[list[_Name], several(MAX_PARTS, 1)]
    """In the order of the file."""
    md5: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{32}$")] | None = None


class UploadObject(ResponseBody):
    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: str
    file: FileObject | None = None

    @classmethod
    def of(cls, upload: Upload, file: File | None = None) -> UploadObject:
        return cls(
            id=upload.id,
            bytes=upload.num_bytes,
            created_at=upload.created_at,
            expires_at=upload.expires_at,
            filename=upload.filename,
            purpose=upload.purpose,
            status=upload.status.value,
            file=None if file is None else FileObject.of(file),
        )


class PartObject(ResponseBody):
    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str

    @classmethod
    def of(cls, part: UploadPart) -> PartObject:
        return cls(id=part.id, created_at=part.created_at, upload_id=part.upload_id)
