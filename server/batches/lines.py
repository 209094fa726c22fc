"""One line of a batch: asked as a request without a connection, until there is an answer that is
worth keeping."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Any

import msgspec

from server.auth import Principal
from server.batches.input_file import Line, read_request
from server.batches.journal import Result
from server.batches.slots import Slots
from server.gate import ClientGone
from server.generating import ROUTES, Endpoint
from server.generation.detached import Answered, DetachedCaller
from server.store.batches import BatchCounts
from server.store.identifiers import random_id
from server.validation import read_body

_AGAIN = frozenset({429, 503})
"""What passes by itself: limits that are reached, and engines that are gone or not there yet."""
_FIRST_PAUSE_S = 0.5
_LAST_PAUSE_S = 30.0
_REQUESTS = {route.path: route.request for route in ROUTES}
EXPIRED = "This request could not be executed before the completion window expired."


class _Details(msgspec.Struct, frozen=True):
    cached_tokens: int = 0
    reasoning_tokens: int = 0


_NO_DETAILS = _Details()


class _Usage(msgspec.Struct, frozen=True):
    """As any of the endpoints tells it."""

    prompt_tokens: int = 0
    input_tokens: int = 0
    completion_tokens: int = 0
    output_tokens: int = 0
    prompt_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None


class _Answer(msgspec.Struct, frozen=True):
    usage: _Usage | None = None


_answer = msgspec.json.Decoder(_Answer)


class LineRunner:
    def __init__(self, endpoints: Mapping[str, Endpoint], slots: Slots) -> None:
        self._endpoints = endpoints
        self._slots = slots

    async def run(self, path: str, principal: Principal, line: Line) -> Result:
        """Tries until it is answered; whoever has no time for that cancels it."""
        request = read_request(line)
        num_tries = 0
        while True:
            async with self._slots.slot(principal.project.id):
                request_id, answered = await self._ask(path, principal, bytes(request.body))
            if answered is not None and answered.status not in _AGAIN:
                return _result(line, request.custom_id, request_id, answered)
            pause_s = min(_FIRST_PAUSE_S * 2**num_tries, _LAST_PAUSE_S)
            num_tries = min(num_tries + 1, 10)
            await asyncio.sleep(pause_s * random.uniform(0.5, 1))

    async def _ask(
        self, path: str, principal: Principal, body: bytes
    ) -> tuple[str, Answered | None]:
        endpoint, model = self._endpoints[path], _REQUESTS[path]
        caller = DetachedCaller(principal, is_spare=True)

        async def answer() -> None:
            await endpoint.answer(principal, await read_body(model, body), caller)

        try:
            return caller.call.request_id, await caller.attend(answer())
        except ClientGone:
            return caller.call.request_id, None


def expired_record(line: Line) -> bytes:
    """For the error file."""
    error = {"code": "batch_expired", "message": EXPIRED}
    return _record(read_request(line).custom_id, None, error)


def _result(line: Line, custom_id: str, request_id: str, answered: Answered) -> Result:
    response = {
        "status_code": answered.status,
        "request_id": request_id,
        "body": msgspec.Raw(answered.body.replace(b"\n", b" ")),
    }
    return Result(line.number, _counts(answered), _record(custom_id, response, None))


def _record(
    custom_id: str, response: Mapping[str, Any] | None, error: Mapping[str, str] | None
) -> bytes:
    record = {
        "id": random_id("batch_req_"),
        "custom_id": custom_id,
        "response": response,
        "error": error,
    }
    return msgspec.json.encode(record)


def _counts(answered: Answered) -> BatchCounts:
    if answered.status != 200:
        return BatchCounts(failed=1)
    usage = _answer.decode(answered.body).usage or _Usage()
    read = usage.prompt_tokens_details or usage.input_tokens_details or _NO_DETAILS
    written = usage.completion_tokens_details or usage.output_tokens_details or _NO_DETAILS
    return BatchCounts(
        completed=1,
        input_tokens=usage.prompt_tokens or usage.input_tokens,
        cached_tokens=read.cached_tokens,
        output_tokens=usage.completion_tokens or usage.output_tokens,
        reasoning_tokens=written.reasoning_tokens,
    )
