"""One question to a model's engines that has one reply: embeddings and scores."""

from __future__ import annotations

from collections.abc import Callable

from server.auth import Principal
from server.engines.pool import EnginePool
from server.errors import InvalidRequest, Unavailable, from_failure
from server.generation.caller import Caller
from server.generation.serving import GenerationServices
from server.models.catalog import Served
from server.usage import Tally
from workers.contract.hello import Capability
from workers.contract.messages import Embedded, Event, Failed, FailureKind, Scored
from workers.contract.parts import Message

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
    served: Served,
    message: Callable[[int], Message],
    caller: Caller,
) -> Embedded | Scored:
    """Asks another replica when one is lost; `principal` pays for the tokens. Raises
    ApiError."""
    tally = Tally()
    await services.runner.place(served.model.base, caller)
    with services.runner.room(principal, 1):
        services.pool.check_room(served.model.engine_model, 1)
        services.runner.admit(principal, served.model.base, tally, caller)
        event = await _ask(services.pool, served, message)
    if isinstance(event, Failed):
        raise from_failure(event)
    assert isinstance(event, Embedded | Scored)
    tally.prompt_tokens = event.prompt_tokens
    services.accountant.record(
        principal, served.model.id, tally, is_pooled=True, is_spare=caller.call.is_spare
    )
    return event


async def _ask(pool: EnginePool, served: Served, message: Callable[[int], Message]) -> Event:
    engine_model, adapter = served.model.engine_model, served.adapter
    connection = pool.pick(engine_model, adapter)
    lost: set[str] = set()
    while True:
        event = await connection.ask(message)
        lost.add(connection.engine_id)
        if not isinstance(event, Failed) or event.kind not in _RETRIABLE:
            return event
        if len(lost) >= MAX_ATTEMPTS:
            return event
        try:
            connection = pool.pick_again(engine_model, adapter, None, lost, event.kind)
        except Unavailable:
            return event
