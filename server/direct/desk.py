"""Where a direct request is received: who calls, what handles it, and what is left to do when a
response is over."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from functools import partial
from typing import Any, Protocol

from server.auth import Principal
from server.direct.eager import run_eagerly
from server.direct.reply import Connection, Reply
from server.direct.request import DirectRequest
from server.errors import ApiError, InternalError, Unavailable
from server.faults import answer_to
from server.gate import (
    Call,
    ClientGone,
    ServicesHolder,
    find_authorization,
    find_header,
)
from server.logs import NO_ROUTE, AccessLog, request_id_context

logger = logging.getLogger(__name__)


class Handler(Protocol):
    def __call__(
        self, principal: Principal, body: bytes, reply: Reply
    ) -> Coroutine[Any, Any, None]:
        """Answers, or arranges that engine events will. Raises ApiError."""
        ...


class Desk:
    """`handlers` are those of `POST`, by path."""

    def __init__(
        self, holder: ServicesHolder, access_log: AccessLog, handlers: Mapping[str, Handler]
    ) -> None:
        self.handlers = handlers
        self._holder = holder
        self._access_log = access_log
        self._under_way: set[Reply] = set()

    def receive(self, request: DirectRequest, tasks: set[asyncio.Task[None]]) -> None:
        """`tasks` gets the task of a request that has to wait."""
        request_id_context.set(request.call.request_id)
        self._under_way.add(request.reply)
        request.reply.when_over(partial(self._leave, request))
        run_eagerly(self._answer(request), tasks)

    def close(self) -> None:
        """Ends what is still under way: the server has waited long enough."""
        for reply in list(self._under_way):
            reply.keep_alive = False
            reply.refuse(Unavailable("The server is being stopped. Please retry."))

    def refuse(self, connection: Connection, error: ApiError) -> None:
        """What came on it is not read; the connection is closed."""
        self._access_log.answers["", NO_ROUTE, error.status] += 1
        Reply(connection, Call(), is_chunked=False, keep_alive=False).refuse(error)

    async def _answer(self, request: DirectRequest) -> None:
        call, reply = request.call, request.reply
        try:
            services = self._holder.services
            if request.has_origin_or_coding:
                call.cors = services.cors.headers(request.headers)
            authorization = find_authorization(request.headers)
            principal = call.principal = await services.keys.authenticate(
                authorization, "POST", request.path
            )
            body = await request.read_body(services.limits.max_body_bytes)
            if request.has_origin_or_coding:
                encoding = find_header(request.headers, b"content-encoding") or b""
                body = await services.decoder.decode(body, encoding)
            await self.handlers[request.path](principal, body, reply)
        except ApiError as error:
            reply.refuse(error)
        except ClientGone:
            pass
        except Exception as error:
            answer = answer_to(error)
            if isinstance(answer, InternalError):
                logger.exception("request failed", extra={"path": request.path})
            reply.refuse(answer)

    def _leave(self, request: DirectRequest) -> None:
        self._under_way.discard(request.reply)
        self._access_log.add(request.call, "POST", request.path, request.path)
