"""The outermost ASGI layer: request id, authentication, body limit, response headers, last resort
for errors, and the access log.

Generating requests do not come this way: `server.direct` has them. They are still routes of the
app, so the OpenAPI document has them.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.auth import KeyRing, Principal
from server.config import Limits
from server.errors import ApiError, InternalError, TooLarge
from server.logs import AccessLog, request_id_context

logger = logging.getLogger(__name__)

Header = tuple[bytes, bytes]

_MULTIPART = b"multipart/form-data"
_MULTIPART_SLACK_BYTES = 1024 * 1024
"""For the part headers and the other fields around an uploaded file."""


class Call:
    """What is known of one request; `status` is 0 until the response starts."""

    __slots__ = ("principal", "rates", "request_id", "started", "status")

    def __init__(self) -> None:
        self.request_id = f"req_{random.getrandbits(128):032x}"
        self.started = time.perf_counter()
        self.principal: Principal | None = None
        self.status = 0
        self.rates: Callable[[], list[Header]] | None = None
        """Headers that tell how much the caller may still ask."""

    def headers(self) -> list[Header]:
        """For the response's start; the processing time is the time until now."""
        elapsed_ms = int((time.perf_counter() - self.started) * 1000)
        headers = [
            (b"x-request-id", self.request_id.encode()),
            (b"openai-processing-ms", b"%d" % elapsed_ms),
            (b"openai-version", b"2020-10-01"),
        ]
        if self.principal is not None:
            headers.append((b"openai-organization", self.principal.project.slug.encode()))
            headers.append((b"openai-project", self.principal.project.id.encode()))
        if self.rates is not None:
            headers += self.rates()
        return headers


class GateServices(Protocol):
    @property
    def keys(self) -> KeyRing: ...
    @property
    def limits(self) -> Limits: ...
    @property
    def access_log(self) -> AccessLog: ...


class ServicesHolder(Protocol):
    @property
    def services(self) -> GateServices: ...


class Gate:
    def __init__(self, app: ASGIApp, holder: ServicesHolder) -> None:
        self._app = app
        self._holder = holder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        call = Call()
        request_id_context.set(call.request_id)
        services = self._holder.services
        try:
            await self._serve(services, call, scope, receive, send)
        except ApiError as error:
            await send_error(send, call, error)
        except ClientGone:
            pass
        except Exception:
            logger.exception("request failed", extra={"path": scope["path"]})
            await send_error(send, call, InternalError())
        finally:
            services.access_log.add(call, scope["method"], scope["path"])

    async def _serve(
        self, services: GateServices, call: Call, scope: Scope, receive: Receive, send: Send
    ) -> None:
        path: str = scope["path"]
        headers: list[Header] = scope["headers"]
        if path.startswith("/v1"):
            call.principal = await services.keys.authenticate(
                find_header(headers, b"authorization")
            )
            scope["principal"] = call.principal
        limit = _body_limit(headers, services.limits)
        await self._app(scope, limited_receive(headers, receive, limit), _labelled_send(call, send))


def find_header(headers: list[Header], name: bytes) -> bytes | None:
    for key, value in headers:
        if key == name:
            return value
    return None


def _body_limit(headers: list[Header], limits: Limits) -> int:
    content_type = find_header(headers, b"content-type") or b""
    if content_type.lower().startswith(_MULTIPART):
        return limits.max_file_bytes + _MULTIPART_SLACK_BYTES
    return limits.max_body_bytes


def limited_receive(headers: list[Header], receive: Receive, limit: int) -> Receive:
    """Refuses a body over `limit` by its announced length, or as soon as that much has come."""
    announced = find_header(headers, b"content-length")
    if announced is not None and int(announced) > limit:
        raise TooLarge(limit)
    received = 0

    async def receive_limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise TooLarge(limit)
        return message

    return receive_limited


class ClientGone(Exception):
    """The caller hung up; there is nobody to answer."""


def _labelled_send(call: Call, send: Send) -> Send:
    async def send_labelled(message: Message) -> None:
        if message["type"] == "http.response.start":
            call.status = message["status"]
            message["headers"] = [*message.get("headers", ()), *call.headers()]
        await send(message)

    return send_labelled


async def send_error(send: Send, call: Call, error: ApiError) -> None:
    """Answers with the envelope, unless an answer is already under way."""
    if call.status:
        return
    call.status = error.status
    body = error.body()
    await send(
        {
            "type": "http.response.start",
            "status": error.status,
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
                *(
                    (name.encode(), value.encode("latin-1", "replace"))
                    for name, value in error.headers
                ),
                *call.headers(),
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})
