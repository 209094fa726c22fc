"""Bodies of routes that read them as generating requests are read: whatever the content type says,
by the same rules."""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import Depends, Request
from pydantic import BaseModel

from server.validation import read_body

ModelT = TypeVar("ModelT", bound=BaseModel)


def json_of(model: type[ModelT]) -> Any:
    """Route parameter: the body, read as `model`."""

    async def read(request: Request) -> ModelT:
        return await read_body(model, await request.body())

    return Depends(read)
