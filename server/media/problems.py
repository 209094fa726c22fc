"""What can be wrong with a picture, clip or sound, under OpenAI's error codes for images."""

from __future__ import annotations

from enum import StrEnum

from server.errors import InvalidRequest
from templates.conversation import MediaKind, MediaPart


class Problem(StrEnum):
    URL = "invalid_{}_url"
    BASE64 = "invalid_base64_{}"
    FORMAT = "invalid_{}_format"
    EMPTY = "empty_{}_file"
    TOO_LARGE = "{}_file_too_large"
    DOWNLOAD = "failed_to_download_{}"
    PARSE = "{}_parse_error"

    def code(self, kind: MediaKind) -> str:
        return self.value.format(kind.value)


class MediaProblem(Exception):
    """One part cannot be used; `reason` is a whole sentence that holds nothing of the content."""

    def __init__(self, problem: Problem, reason: str) -> None:
        super().__init__(reason)
        self.problem = problem
        self.reason = reason


def refuse(part: MediaPart, problem: MediaProblem) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid '{part.place}': {problem.reason}",
        param=part.place,
        code=problem.problem.code(part.kind),
    )
