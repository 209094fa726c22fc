"""One question to a model's engines that has one reply: embeddings and scores."""

from __future__ import annotations

from collections.abc import Callable

from server.auth import Principal
from server.direct.reply import Reply
from server.engines.pool import EnginePool
from server.errors import InvalidRequest, from_failure
from server.generation.serving import GenerationServices
from server.models.catalog import Served
from server.usage import Tally
from workers.contract.messages import (
    Capability,
    Embedded,
    Event,
    Failed,
    FailureKind,
    Message,
    Scored,
)

MAX_ATTEMPTS = 3
_RETRIABLE = frozenset({FailureKind.ENGINE_DEAD, FailureKind.OVERLOADED})


def require_pooled(served: Served, capability: Capability, what: str) -> None:
    """Raises InvalidRequest."""
    if capability not in served.hello.capabilities:
        raise InvalidRequest(
            f"The model '{served.model.id}' serves no {what}.",
            param="model",
            code="model_not_supported",
        )


async def ask_pooled(
    services: GenerationServices,
    principal: Principal,
    model: str,
    served: Served,
    message: Callable[[int], Message],
    reply: Reply,
) -> Embedded | Scored:
    """Asks another replica when one is lost; the tokens are `reply`'s caller's. Raises
    ApiError."""
    tally = Tally()
    engine_model = served.model.engine_model
    with services.runner.room(principal, 1):
        services.pool.check_room(engine_model, 1)
        services.runner.admit(principal, tally, reply)
        event = await _ask(services.pool, engine_model, message)
    if isinstance(event, Failed):
        raise from_failure(event)
    assert isinstance(event, Embedded | Scored)
    tally.prompt_tokens = event.prompt_tokens
    services.accountant.record(principal, model, tally)
    return event


async def _ask(pool: EnginePool, engine_model: str, message: Callable[[int], Message]) -> Event:
    lost: set[str] = set()
    while True:
        connection = pool.pick(engine_model, None, lost)
        event = await connection.ask(message)
        lost.add(connection.engine_id)
        is_retriable = isinstance(event, Failed) and event.kind in _RETRIABLE
        others = [c for c in pool.connections(engine_model) if c.engine_id not in lost]
        if not is_retriable or len(lost) >= MAX_ATTEMPTS or not others:
            return event
