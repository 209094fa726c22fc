"""What a caller is told when something below a handler could not do its work."""

from __future__ import annotations

from server.blobs import StorageFullError
from server.errors import ApiError, InsufficientStorage, InternalError, InvalidRequest, Unavailable
from server.store.passing_faults import StoreUnavailableError, UnstorableTextError

_RETRY_AFTER_S = 2.0


def answer_to(error: Exception) -> ApiError:
    """InternalError for a fault of ours."""
    match error:
        case ApiError():
            return error
        case StorageFullError():
            return InsufficientStorage()
        case StoreUnavailableError():
            message = "The server cannot read or store this at the moment. Please retry."
            return Unavailable(message, retry_after_s=_RETRY_AFTER_S)
        case UnstorableTextError():
            return InvalidRequest("A text has a NUL character.", code="invalid_value")
        case _:
            return InternalError()
