"""Batches on the wire."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from server.files.schemas import ExpiresAfter
from server.paging import Listing
from server.store.batches import Batch
from server.wire import Metadata, RequestBody, ResponseBody

Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"]
WINDOW_S = 24 * 3600


class CreateBatch(RequestBody):
    input_file_id: Annotated[str, Field(min_length=1, max_length=512)]
    endpoint: Endpoint
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: ExpiresAfter | None = None


class BatchError(ResponseBody):
    code: str
    message: str
    param: str | None = None
    line: int | None = None


class BatchErrors(ResponseBody):
    object: Literal["list"] = "list"
    data: list[BatchError]


class RequestCounts(ResponseBody):
    total: int
    completed: int
    failed: int


class InputTokensDetails(ResponseBody):
    cached_tokens: int


class OutputTokensDetails(ResponseBody):
    reasoning_tokens: int


class BatchUsage(ResponseBody):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class BatchObject(ResponseBody):
    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchUsage
    metadata: dict[str, str] | None

    @classmethod
    def of(cls, batch: Batch) -> BatchObject:
        counts = batch.counts
        same = {name: getattr(batch, name) for name in cls.model_fields if name in _SAME}
        fields: dict[str, Any] = {
            **same,
            "errors": batch.errors and {"data": batch.errors},
            "status": batch.status.value,
            "request_counts": {
                "total": batch.total,
                "completed": counts.completed,
                "failed": counts.failed,
            },
            "usage": {
                "input_tokens": counts.input_tokens,
                "input_tokens_details": {"cached_tokens": counts.cached_tokens},
                "output_tokens": counts.output_tokens,
                "output_tokens_details": {"reasoning_tokens": counts.reasoning_tokens},
                "total_tokens": counts.input_tokens + counts.output_tokens,
            },
        }
        return cls.model_validate(fields)


_SAME = frozenset(Batch.__slots__) - {"errors", "status"}


class BatchList(Listing[BatchObject]):
    pass
