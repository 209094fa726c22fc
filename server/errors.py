"""Errors as the caller sees them: one tree, one envelope, one handler per framework exception.

    ApiError
    ├── InvalidRequest          400  the request is wrong, `param` names where
    │   └── ModelNotLoaded           it is there, and its engine cannot serve it
    ├── Unauthorized            401  no key, or not one of ours
    ├── PermissionDenied        403
    ├── NotFound                404
    │   └── ModelNotFound
    ├── RequestTimedOut         408  retried by OpenAI's SDK
    ├── Conflict                409  retried by OpenAI's SDK
    ├── TooLarge                413
    ├── UnsupportedEncoding     415
    ├── HeadTooLarge            431
    ├── RateLimited             429  with `Retry-After`
    ├── InternalError           500
    ├── Unavailable             503  with `Retry-After`
    ├── UnsupportedVersion      505
    └── InsufficientStorage     507  not retried by OpenAI's SDK

The envelope is OpenAI's: `{"error": {message, type, param, code}}`, all four keys always present.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from workers.contract.messages import Failed, FailureKind

MODEL_NOT_LOADED = "model_not_loaded"
INVALID_MEDIA = "invalid_media"
"""Until the plan, which knows what the part is, gives it the code of its kind."""


class ApiError(Exception):
    """An answer that is not a success. `message` is for the caller: no paths, no prompt text."""

    status = 500
    type = "server_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.headers = headers

    def envelope(self) -> dict[str, Any]:
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }

    def body(self) -> bytes:
        return msgspec.json.encode(self.envelope())


class InvalidRequest(ApiError):
    status = 400
    type = "invalid_request_error"


class ModelNotLoaded(InvalidRequest):
    """The model is known, and its files are such that no try will help."""

    def __init__(self, message: str) -> None:
        super().__init__(message, param="model", code=MODEL_NOT_LOADED)


class Unauthorized(ApiError):
    status = 401
    type = "invalid_request_error"

    def __init__(self, message: str, code: str | None = "invalid_api_key") -> None:
        super().__init__(
            message, code=code, headers=(("www-authenticate", 'Bearer realm="OpenAI API"'),)
        )


class PermissionDenied(ApiError):
    status = 403
    type = "invalid_request_error"


class NotFound(ApiError):
    status = 404
    type = "invalid_request_error"


class ModelNotFound(NotFound):
    def __init__(self, model: str) -> None:
        super().__init__(
            f"The model '{model}' does not exist or you do not have access to it.",
            param="model",
            code="model_not_found",
        )


class RequestTimedOut(ApiError):
    """Of a request that comes too slowly. The connection is closed after the answer."""

    status = 408
    type = "invalid_request_error"

    def __init__(self, message: str) -> None:
        super().__init__(message, code="request_timeout", headers=(("connection", "close"),))


class Conflict(ApiError):
    status = 409
    type = "invalid_request_error"


class TooLarge(ApiError):
    """The connection is closed after the answer, so the rest of the body is never read."""

    status = 413
    type = "invalid_request_error"

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(
            f"The request body is larger than the limit of {limit_bytes} bytes.",
            code="request_too_large",
            headers=(("connection", "close"),),
        )


class UnsupportedEncoding(ApiError):
    """Of a body."""

    status = 415
    type = "invalid_request_error"

    def __init__(self, message: str, accepted: str) -> None:
        super().__init__(
            message, code="unsupported_content_encoding", headers=(("accept-encoding", accepted),)
        )


def _retry_headers(retry_after_s: float) -> tuple[tuple[str, str], ...]:
    return (
        ("retry-after", str(max(1, math.ceil(retry_after_s)))),
        ("retry-after-ms", str(max(1, round(retry_after_s * 1000)))),
    )


class HeadTooLarge(ApiError):
    status = 431
    type = "invalid_request_error"

    def __init__(self) -> None:
        super().__init__("The request's headers are too large.", code="headers_too_large")


class UnsupportedVersion(ApiError):
    """Of HTTP."""

    status = 505
    type = "invalid_request_error"

    def __init__(self, version: str) -> None:
        super().__init__(
            f"HTTP/{version} is not spoken here; please use HTTP/1.1.",
            code="http_version_not_supported",
        )


class RateLimited(ApiError):
    status = 429
    type = "requests"

    def __init__(self, message: str, *, retry_after_s: float, kind: str = "requests") -> None:
        super().__init__(message, code="rate_limit_exceeded", headers=_retry_headers(retry_after_s))
        self.type = kind


class InternalError(ApiError):
    def __init__(
        self,
        message: str = "The server had an error while processing your request. "
        "Please retry; the request id is in the x-request-id header.",
    ) -> None:
        super().__init__(message)


class Unavailable(ApiError):
    status = 503
    type = "service_unavailable_error"

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float = 1.0,
        param: str | None = None,
        code: str = "server_is_overloaded",
    ) -> None:
        headers = _retry_headers(retry_after_s)
        super().__init__(message, param=param, code=code, headers=headers)


class InsufficientStorage(ApiError):
    """Trying again does not help until the operator makes room."""

    status = 507

    def __init__(self) -> None:
        super().__init__(
            "The server has no room left to store this.",
            code="insufficient_storage",
            headers=(("x-should-retry", "false"),),
        )


def unknown_parameter(param: str) -> InvalidRequest:
    return InvalidRequest(f"Unknown parameter: '{param}'.", param=param, code="unknown_parameter")


def missing_parameter(param: str) -> InvalidRequest:
    return InvalidRequest(
        f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter"
    )


def unsupported_parameter(param: str, reason: str) -> InvalidRequest:
    """`reason` is a whole sentence."""
    return InvalidRequest(
        f"Unsupported parameter: '{param}'. {reason}", param=param, code="unsupported_parameter"
    )


def unsupported_value(param: str, reason: str) -> InvalidRequest:
    """`reason` is a whole sentence."""
    return InvalidRequest(
        f"Unsupported value: '{param}'. {reason}", param=param, code="unsupported_value"
    )


def invalid_value(param: str, reason: str) -> InvalidRequest:
    """`reason` is a whole sentence."""
    return InvalidRequest(f"Invalid '{param}': {reason}", param=param, code="invalid_value")


def array_too_long(param: str | None, limit: int, length: int) -> InvalidRequest:
    named = f" '{param}'" if param else ""
    return InvalidRequest(
        f"Invalid{named}: array too long. Expected an array with maximum length {limit}, "
        f"but got an array with length {length} instead.",
        param=param,
        code="array_above_max_length",
    )


def from_failure(failed: Failed) -> ApiError:
    """The answer for a worker's `Failed`."""
    match failed.kind:
        case FailureKind.INVALID_REQUEST:
            return InvalidRequest(failed.message, param=failed.param, code="invalid_value")
        case FailureKind.CONTEXT_LENGTH_EXCEEDED:
            return InvalidRequest(
                failed.message, param=failed.param or "messages", code="context_length_exceeded"
            )
        case FailureKind.INVALID_GRAMMAR:
            return InvalidRequest(
                failed.message, param=failed.param or "response_format", code="invalid_json_schema"
            )
        case FailureKind.INVALID_MEDIA:
            return InvalidRequest(
                failed.message, param=failed.param or "messages", code=INVALID_MEDIA
            )
        case FailureKind.UNSUPPORTED:
            is_model = failed.param == "model"
            code = "model_not_supported" if is_model else "unsupported_parameter"
            return InvalidRequest(failed.message, param=failed.param, code=code)
        case FailureKind.ADAPTER_NOT_FOUND:
            return Unavailable(
                failed.message, retry_after_s=30.0, param="model", code=MODEL_NOT_LOADED
            )
        case FailureKind.ADAPTER_INVALID:
            return ModelNotLoaded(failed.message)
        case FailureKind.OVERLOADED | FailureKind.ENGINE_DEAD:
            return Unavailable(failed.message)
        case FailureKind.OUT_OF_MEMORY:
            return Unavailable(failed.message, retry_after_s=2.0)
        case FailureKind.INTERNAL:
            return InternalError()
