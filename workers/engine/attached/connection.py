"""The HTTP side of an attached engine: requests, streams of records, and what its refusals mean."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx

from workers.contract.messages import FailureKind
from workers.engine.attached.settings import AttachedSettings
from workers.engine.backend import RefusedError, Work
from workers.engine.spec import SpecError

log = logging.getLogger(__name__)

OK = 200
_DATA = "data: "
_DONE = "data: [DONE]"


class Connection:
    def __init__(self, settings: AttachedSettings) -> None:
        key = settings.api_key
        self._http = httpx.AsyncClient(
            base_url=settings.url.rstrip("/"),
            headers={} if key is None else {"authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(settings.silence_timeout_s, connect=settings.connect_timeout_s),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
        )

    async def read(self, path: str) -> dict[str, Any]:
        """What the server tells of itself. Raises SpecError."""
        try:
            answer = await self._http.get(path)
        except httpx.HTTPError as error:
            raise SpecError(f"the attached engine cannot be reached: {error}") from error
        if answer.status_code != OK:
            raise SpecError(f"the attached engine answers {path} with {answer.status_code}")
        return answer.json()

    async def status(self, path: str, timeout_s: float) -> int | None:
        """None: no answer."""
        try:
            return (await self._http.get(path, timeout=timeout_s)).status_code
        except httpx.HTTPError:
            return None

    async def post(self, path: str, body: dict[str, Any]) -> int:
        """The answer's status. Raises RefusedError."""
        try:
            return (await self._http.post(path, json=body)).status_code
        except httpx.HTTPError as error:
            raise unreachable(error) from error

    async def open(self, path: str, body: dict[str, Any], work: Work) -> httpx.Response:
        """The stream of an accepted request. Raises RefusedError."""
        request = self._http.build_request("POST", path, json=body)
        try:
            response = await self._http.send(request, stream=True)
            if response.status_code == OK:
                return response
            refused = await response.aread()
            await response.aclose()
        except httpx.HTTPError as error:
            raise unreachable(error) from error
        log.warning("attached engine refused", extra={"status": response.status_code})
        raise refusal(response.status_code, refused, work)

    async def close(self) -> None:
        await self._http.aclose()


async def records(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in response.aiter_lines():
        if line.startswith(_DATA) and line != _DONE:
            yield json.loads(line.removeprefix(_DATA))


def unreachable(error: httpx.HTTPError) -> RefusedError:
    log.warning("attached engine not reached", extra={"reason": type(error).__name__})
    return RefusedError(FailureKind.OVERLOADED, "The attached engine cannot be reached now.")


def record_error(work: Work, record: dict[str, Any]) -> RefusedError | None:
    """Both servers answer 200 before they have looked at everything, and refuse in the stream."""
    error = record.get("error")
    if error is None:
        return None
    code = error.get("code") if isinstance(error, dict) else None
    return refusal(code if isinstance(code, int) else 500, json.dumps(record).encode(), work)


def refusal(status: int, body: bytes, work: Work) -> RefusedError:
    """What the server refused, in our words."""
    if status in (429, 503):
        return RefusedError(FailureKind.OVERLOADED, "The attached engine is overloaded.")
    if status in (400, 422):
        if work.grammar is not None:
            return RefusedError(FailureKind.INVALID_GRAMMAR, _message(body), "response_format")
        return RefusedError(FailureKind.INVALID_REQUEST, _message(body))
    if status == 404:
        message = "The attached engine does not know the model."
        return RefusedError(FailureKind.ADAPTER_NOT_FOUND, message, "model")
    return RefusedError(FailureKind.INTERNAL, f"The attached engine answered with {status}.")


def _message(body: bytes) -> str:
    plain = "The attached engine refused the request."
    try:
        error = json.loads(body)
    except ValueError:
        return plain
    if isinstance(error, dict):
        error = error.get("error", error)
    if isinstance(error, dict):
        error = error.get("message")
    return error if isinstance(error, str) and error else plain
