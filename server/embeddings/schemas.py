"""The body of an embeddings request and, for the API's documentation, of its answer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from server.body_size import MAX_VALUES
from server.wire import Count, ModelName, RequestBody, ResponseBody, several

MAX_INPUTS = 2048

TextInput = Annotated[str, Field(min_length=1)]
TokenInput = Annotated[list[Count], several(MAX_VALUES, 1)]
Input = (
    TextInput
    | TokenInput
    | Annotated[list[TextInput], several(MAX_INPUTS, 1)]
    | Annotated[list[TokenInput], several(MAX_INPUTS, 1)]
)


class EmbeddingRequest(RequestBody):
    input: Input
    model: ModelName
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[Count, Field(ge=1)] | None = None
    user: str | None = None


class Embedding(ResponseBody):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str
    """With `base64`, little-endian float32 numbers."""


class EmbeddingUsage(ResponseBody):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(ResponseBody):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage
