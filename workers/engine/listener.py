"""The worker's socket: many clients, frames in, frames out.

A unix socket is guarded by its file mode; on TCP, in TLS where a certificate is given, the first
message must be a right `Authenticate`, and nothing is said before it. The protocol itself is
`workers.contract`.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import socket
import ssl
import stat
from pathlib import Path

from workers.contract.codec import FrameError, FrameReader, decode_requests, encode
from workers.contract.messages import Authenticate, Event
from workers.engine.service import ClientError, EngineService

log = logging.getLogger(__name__)

_MAX_GREETING_BYTES = 4096
"""What a stranger may send before it has authenticated itself."""
_GREETING_TIMEOUT_S = 10.0
_LOST_PEER_TIMEOUT_MS = 30_000
"""A host that takes no data for so long is gone; what it asked for is then aborted."""
_MAX_UNREAD_BYTES = 64 * 1024 * 1024
"""A client that lets this much pile up is not reading any more and is dropped."""


class Connection(asyncio.Protocol):
    def __init__(self, service: EngineService, token: str | None, open_: set[Connection]) -> None:
        self._service = service
        self._token = token
        self._open = open_
        self._reader = FrameReader()
        self._outbox: list[Event] = []
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._is_known = False
        self._num_greeting_bytes = 0
        self._greeting_limit: asyncio.TimerHandle | None = None

    # --- asyncio.Protocol -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._open.add(self)
        if self._token is None:
            self._enter()
        else:
            _watch_peer(transport.get_extra_info("socket"))
            self._greeting_limit = self._loop.call_later(_GREETING_TIMEOUT_S, self.drop)

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._reader.feed(data):
                for request in decode_requests(body):
                    if self._is_known:
                        self._service.handle(self, request)
                    elif isinstance(request, Authenticate) and self._knows(request.token):
                        self._enter()
                    else:
                        raise ClientError("not authenticated")
            if not self._is_known:
                self._num_greeting_bytes += len(data)
                if self._num_greeting_bytes > _MAX_GREETING_BYTES:
                    raise ClientError("not authenticated")
        except (FrameError, ClientError) as error:
            log.warning("connection dropped", extra={"reason": str(error)})
            self.drop()

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self)
        self._transport = None
        if self._greeting_limit is not None:
            self._greeting_limit.cancel()
        if self._is_known:
            self._is_known = False
            self._service.disconnect(self)

    # --- Client -----------------------------------------------------------------------------------

    def post(self, event: Event) -> None:
        if not self._outbox:
            self._loop.call_soon(self._flush)
        self._outbox.append(event)

    # --- for the listener -------------------------------------------------------------------------

    def drop(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Sends what is left, then closes."""
        if self._transport is not None:
            self._flush()
            self._transport.close()

    def _enter(self) -> None:
        self._is_known = True
        if self._greeting_limit is not None:
            self._greeting_limit.cancel()
        self._service.connect(self)

    def _knows(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), (self._token or "").encode())

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, []
        if self._transport is None or not outbox:
            return
        self._transport.write(encode(outbox))
        if self._transport.get_write_buffer_size() > _MAX_UNREAD_BYTES:
            log.warning("connection dropped", extra={"reason": "the client does not read"})
            self._transport.abort()


def _watch_peer(peer: socket.socket) -> None:
    """A host that vanishes without a word ends the connection: reports go out every second, and
    one that is not acknowledged in time breaks it (Linux)."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _LOST_PEER_TIMEOUT_MS)


class Listener:
    def __init__(
        self,
        service: EngineService,
        address: str,
        token: str | None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._service = service
        self._address = address
        self._token = token
        self._tls = tls
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        scheme, _, where = self._address.partition(":")
        if scheme == "unix":
            self._remove_stale(where)
            previous = os.umask(0o177)
            try:
                self._server = await loop.create_unix_server(self._connection, where)
            finally:
                os.umask(previous)
        else:
            host, _, port = where.rpartition(":")
            self._server = await loop.create_server(
                self._connection,
                host.strip("[]"),
                int(port),
                ssl=self._tls,
                ssl_handshake_timeout=None if self._tls is None else _GREETING_TIMEOUT_S,
            )

    async def stop_accepting(self) -> None:
        if self._server is not None:
            self._server.close()

    async def close(self) -> None:
        await self.stop_accepting()
        for connection in list(self._connections):
            connection.close()
        if self._address.startswith("unix:"):
            Path(self._address.removeprefix("unix:")).unlink(missing_ok=True)

    def _connection(self) -> Connection:
        is_unix = self._address.startswith("unix:")
        return Connection(self._service, None if is_unix else self._token, self._connections)

    @staticmethod
    def _remove_stale(path: str) -> None:
        """A killed worker leaves its socket behind; anything else under that name is kept."""
        try:
            if stat.S_ISSOCK(os.stat(path).st_mode):
                os.unlink(path)
        except FileNotFoundError:
            pass


def server_tls(cert: str, key: str | None) -> ssl.SSLContext:
    """Raises OSError, of which ssl.SSLError is one."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(cert, key)
    return context
