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

from server.auth import ADMINISTRATION, KeyRing, Principal
from server.config import Limits
from server.error_shapes import ANTHROPIC_ERRORS, OPENAI_ERRORS, ErrorShape, is_anthropic
from server.errors import ApiError, InternalError, TooLarge, UnsupportedEncoding
from server.faults import answer_to
from server.logs import NO_ROUTE, AccessLog, request_id_context
from server.timing import Timing

logger = logging.getLogger(__name__)

Header = tuple[bytes, bytes]

_MULTIPART = b"multipart/form-data"
_MULTIPART_SLACK_BYTES = 1024 * 1024
"""For the part headers and the other fields around an uploaded file."""


class Call:
    """What is known of one request; `status` is 0 until the response starts."""

    __slots__ = (
        "cors",
        "errors",
        "is_spare",
        "principal",
        "rates",
        "request_id",
        "started",
        "status",
        "timing",
    )

    def __init__(self, path: str = "") -> None:
        self.errors: ErrorShape = ANTHROPIC_ERRORS if is_anthropic(path) else OPENAI_ERRORS
        self.request_id = f"req_{random.getrandbits(128):032x}"
        self.started = time.perf_counter()
        self.principal: Principal | None = None
        self.status = 0
        self.rates: Callable[[], list[Header]] | None = None
        """Headers that tell how much the caller may still ask."""
        self.cors: tuple[Header, ...] = ()
        """Headers for the browser of a page."""
        self.is_spare = False
        """Whether it may only have what others leave of an engine."""
        self.timing: Timing | None = None
        """Of a request that an engine works for."""

    def headers(self) -> list[Header]:
        """For the response's start; the processing time is the time until now."""
        now = time.perf_counter()
        elapsed_ms = int((now - self.started) * 1000)
        headers = [
            (b"x-request-id", self.request_id.encode()),
            (b"openai-processing-ms", b"%d" % elapsed_ms),
            (b"openai-version", b"2020-10-01"),
        ]
        if self.errors is ANTHROPIC_ERRORS:
            headers.append((b"request-id", self.request_id.encode()))
        if self.principal is not None:
            headers.append((b"openai-organization", self.principal.project.slug.encode()))
            headers.append((b"openai-project", self.principal.project.id.encode()))
        if self.rates is not None:
            headers += self.rates()
        if self.timing is not None and (stages := self.timing.header(self.started, now)):
            headers.append(stages)
        headers += self.cors
        return headers


class BodyDecoder(Protocol):
    async def decode(self, body: bytes, encoding: bytes) -> bytes: ...


class CorsPolicy(Protocol):
    @property
    def is_on(self) -> bool: ...
    def headers(self, request_headers: list[Header]) -> tuple[Header, ...]: ...
    def preflight(self, request_headers: list[Header]) -> tuple[Header, ...] | None: ...


class GateServices(Protocol):
    @property
    def keys(self) -> KeyRing: ...
    @property
    def limits(self) -> Limits: ...
    @property
    def access_log(self) -> AccessLog: ...
    @property
    def decoder(self) -> BodyDecoder: ...
    @property
    def cors(self) -> CorsPolicy: ...


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
        call = Call(scope["path"])
        request_id_context.set(call.request_id)
        services = self._holder.services
        try:
            await self._serve(services, call, scope, receive, send)
        except ApiError as error:
            await send_error(send, call, error)
        except ClientGone:
            pass
        except Exception as error:
            answer = answer_to(error)
            if isinstance(answer, InternalError):
                logger.exception("request failed", extra={"path": scope["path"]})
            await send_error(send, call, answer)
        finally:
            route = getattr(scope.get("route"), "path", NO_ROUTE)
            services.access_log.add(call, scope["method"], scope["path"], route)

    async def _serve(
        self, services: GateServices, call: Call, scope: Scope, receive: Receive, send: Send
    ) -> None:
        path: str = scope["path"]
        headers: list[Header] = scope["headers"]
        if path.startswith("/v1"):
            if services.cors.is_on:
                call.cors = services.cors.headers(headers)
                if scope["method"] == "OPTIONS":
                    allowed = services.cors.preflight(headers)
                    if allowed is not None:
                        call.cors = allowed
                        await _send_nothing(send, call)
                        return
            await _authenticate(services.keys, call, scope)
        receive = _decoded_receive(services, headers, _limited_receive(services, headers, receive))
        send = _labelled_send(call, send)
        if scope["method"] == "HEAD":
            # The app answers as to `GET`; the server leaves out the body.
            as_get = {**scope, "method": "GET"}
            await self._app(as_get, _hung_up, _head_send(send))
            scope["route"] = as_get.get("route")
        else:
            await self._app(scope, receive, send)


async def _authenticate(keys: KeyRing, call: Call, scope: Scope) -> None:
    """Raises Unauthorized and PermissionDenied."""
    path: str = scope["path"]
    authorization = find_authorization(scope["headers"])
    if path == ADMINISTRATION or path.startswith(f"{ADMINISTRATION}/"):
        scope["administrator"] = await keys.authenticate_administrator(authorization)
    else:
        call.principal = await keys.authenticate(authorization, scope["method"], path)
        scope["principal"] = call.principal


def find_header(headers: list[Header], name: bytes) -> bytes | None:
    for key, value in headers:
        if key == name:
            return value
    return None


def find_authorization(headers: list[Header]) -> bytes | None:
    """Anthropic's clients have the key in `x-api-key`."""
    authorization = find_header(headers, b"authorization")
    if authorization is not None:
        return authorization
    key = find_header(headers, b"x-api-key")
    return None if key is None else b"Bearer " + key


def _is_upload(headers: list[Header]) -> bool:
    content_type = find_header(headers, b"content-type") or b""
    return content_type.lower().startswith(_MULTIPART)


def _limited_receive(services: GateServices, headers: list[Header], receive: Receive) -> Receive:
    """Refuses a body that is too large by its announced length, or as soon as that much came."""
    limit = services.limits.max_body_bytes
    if _is_upload(headers):
        limit = services.limits.max_file_bytes + _MULTIPART_SLACK_BYTES
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


def _decoded_receive(services: GateServices, headers: list[Header], receive: Receive) -> Receive:
    """Gives a body with a content encoding as a whole; an upload has none."""
    encoding = find_header(headers, b"content-encoding")
    if encoding is None:
        return receive
    if _is_upload(headers):
        raise UnsupportedEncoding("Please upload files without a content encoding.", "identity")
    is_read = False

    async def receive_decoded() -> Message:
        nonlocal is_read
        message = await receive()
        if is_read or message["type"] != "http.request":
            return message
        body = bytearray(message.get("body", b""))
        while message.get("more_body"):
            message = await receive()
            if message["type"] != "http.request":
                return message
            body += message.get("body", b"")
        is_read = True
        decoded = await services.decoder.decode(bytes(body), encoding)
        return {"type": "http.request", "body": decoded, "more_body": False}

    return receive_decoded


async def _hung_up() -> Message:
    """Ends a stream that nobody would see."""
    return {"type": "http.disconnect"}


def _head_send(send: Send) -> Send:
    """Of a response, its start."""
    begun = False

    async def send_head(message: Message) -> None:
        nonlocal begun
        if not begun:
            begun = True
            await send(message)
            await send({"type": "http.response.body", "body": b""})

    return send_head


async def _send_nothing(send: Send, call: Call) -> None:
    call.status = 204
    await send({"type": "http.response.start", "status": 204, "headers": call.headers()})
    await send({"type": "http.response.body", "body": b""})


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
    body = call.errors.body(error, call.request_id)
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
