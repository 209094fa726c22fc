"""File objects on the wire, and what an upload's fields may hold."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from server.errors import InvalidRequest, missing_parameter
from server.paging import Listing
from server.store.records import File
from server.wire import RequestBody

MIN_EXPIRY_S = 3600
MAX_EXPIRY_S = 2_592_000
_INTEGER = re.compile(r"-?[0-9]{1,20}")
BATCH_EXPIRY_S = 30 * 24 * 3600


class ExpiresAfter(RequestBody):
    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=MIN_EXPIRY_S, le=MAX_EXPIRY_S)]


class Purpose(StrEnum):
    """What a caller may upload a file for."""

    ASSISTANTS = "assistants"
    BATCH = "batch"
    FINE_TUNE = "fine-tune"
    VISION = "vision"
    USER_DATA = "user_data"
    EVALS = "evals"


LINE_APIS = {Purpose.FINE_TUNE: "Fine-Tuning", Purpose.BATCH: "Batch"}
"""Purposes whose files are read row by row, and the API that does."""
RESULTS_PURPOSE = "fine-tune-results"
BATCH_OUTPUT_PURPOSE = "batch_output"
PRODUCED_PURPOSES = frozenset({"assistants_output", BATCH_OUTPUT_PURPOSE, RESULTS_PURPOSE})


class FileObject(BaseModel):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None = None
    filename: str
    purpose: str
    status: str
    status_details: str | None = None

    @classmethod
    def of(cls, file: File) -> FileObject:
        return cls(
            id=file.id,
            bytes=file.num_bytes,
            created_at=file.created_at,
            expires_at=file.expires_at,
            filename=file.filename,
            purpose=file.purpose,
            status=file.status,
            status_details=file.status_details,
        )


class FileList(Listing[FileObject]):
    pass


class FileDeleted(BaseModel):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


def parse_purpose(value: str | None) -> Purpose:
    """Raises InvalidRequest."""
    if value is None:
        raise missing_parameter("purpose")
    try:
        return Purpose(value)
    except ValueError:
        allowed = ", ".join(f"'{purpose}'" for purpose in Purpose)
        raise InvalidRequest(
            f"Invalid value: '{value}'. Supported values are: {allowed}.",
            param="purpose",
            code="invalid_value",
        ) from None


def parse_expiry(anchor: str | None, seconds: str | None) -> int | None:
    """Seconds after creation. Raises InvalidRequest."""
    if anchor is None and seconds is None:
        return None
    for name, value in (("anchor", anchor), ("seconds", seconds)):
        if value is None:
            raise missing_parameter(f"expires_after.{name}")
    if anchor != "created_at":
        raise InvalidRequest(
            f"Invalid value: '{anchor}'. Supported values are: 'created_at'.",
            param="expires_after.anchor",
            code="invalid_value",
        )
    if not _INTEGER.fullmatch(seconds or ""):
        raise InvalidRequest(
            "Invalid type for 'expires_after.seconds': expected an integer.",
            param="expires_after.seconds",
            code="invalid_type",
        )
    parsed = int(seconds or "")
    _check_bounds(parsed)
    return parsed


def _check_bounds(seconds: int) -> None:
    where = "expires_after.seconds"
    if seconds < MIN_EXPIRY_S:
        raise InvalidRequest(
            f"Invalid '{where}': integer below minimum value. "
            f"Expected a value >= {MIN_EXPIRY_S}, but got {seconds} instead.",
            param=where,
            code="integer_below_min_value",
        )
    if seconds > MAX_EXPIRY_S:
        raise InvalidRequest(
            f"Invalid '{where}': integer above maximum value. "
            f"Expected a value <= {MAX_EXPIRY_S}, but got {seconds} instead.",
            param=where,
            code="integer_above_max_value",
        )
