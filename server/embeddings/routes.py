"""Describes `POST /v1/embeddings` for the API document; `EmbeddingsEndpoint` answers it."""

from __future__ import annotations

from fastapi import APIRouter

from server.embeddings.schemas import EmbeddingList, EmbeddingRequest
from server.openapi import refusals

router = APIRouter(tags=["Embeddings"])


@router.post(
    "/v1/embeddings",
    response_model=EmbeddingList,
    responses=refusals(404, 429),
    summary="Create embeddings",
)
async def create_embedding(body: EmbeddingRequest) -> None:
    """One vector for each input, pooled as the model declares."""
    raise NotImplementedError("requests to this path go through server.direct")
