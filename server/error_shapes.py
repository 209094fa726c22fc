"""What an error looks like on the wire: OpenAI's envelope, or Anthropic's on its API's paths."""

from __future__ import annotations

from typing import Protocol

import msgspec

from server.errors import ApiError
from server.sse import DONE, event, record

_MESSAGES = "/v1/messages"
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
_LEAST_FAULT = 500


class ErrorShape(Protocol):
    def body(self, error: ApiError, request_id: str) -> bytes:
        """Of a response."""
        ...

    def last_record(self, error: ApiError, request_id: str) -> bytes:
        """Of a stream that has begun."""
        ...


class OpenAIErrors:
    def body(self, error: ApiError, request_id: str) -> bytes:
        return error.body()

    def last_record(self, error: ApiError, request_id: str) -> bytes:
        return record(error.body()) + DONE


class AnthropicErrors:
    """There is no `param`: a message that does not name the field begins with it."""

    def body(self, error: ApiError, request_id: str) -> bytes:
        other = "api_error" if error.status >= _LEAST_FAULT else "invalid_request_error"
        message, param = error.message, error.param
        if param is not None and param not in message:
            message = f"{param}: {message}"
        shown = {"type": _TYPES.get(error.status, other), "message": message}
        return msgspec.json.encode({"type": "error", "error": shown, "request_id": request_id})

    def last_record(self, error: ApiError, request_id: str) -> bytes:
        return event(b"error", self.body(error, request_id))


OPENAI_ERRORS = OpenAIErrors()
ANTHROPIC_ERRORS = AnthropicErrors()


def is_anthropic(path: str) -> bool:
    return path.startswith(_MESSAGES) and (
        len(path) == len(_MESSAGES) or path[len(_MESSAGES)] == "/"
    )
