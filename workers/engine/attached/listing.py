"""`GET /v1/models`, which both servers answer alike: base models, and adapters with a parent."""

from __future__ import annotations

from typing import Any

from workers.contract.parts import AdapterRef
from workers.engine.attached.connection import Connection
from workers.engine.spec import SpecError

_PATH = "/v1/models"


async def find_base(connection: Connection, name: str | None) -> tuple[str, int | None]:
    """The base model's name there, and its context length. Raises SpecError."""
    listed = (await connection.read(_PATH))["data"]
    bases: dict[str, Any] = {model["id"]: model for model in listed if not model.get("parent")}
    if name is None and len(bases) == 1:
        name = next(iter(bases))
    if name is None or name not in bases:
        raise SpecError(f"served_model must be one of {', '.join(sorted(bases))}")
    return name, bases[name].get("max_model_len")


async def holds(connection: Connection, adapter: AdapterRef) -> bool:
    """Raises SpecError."""
    listed = (await connection.read(_PATH))["data"]
    return any(
        model["id"] == adapter.name and model.get("parent") and model.get("root") == adapter.path
        for model in listed
    )
