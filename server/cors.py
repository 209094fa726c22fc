"""Which web pages may call the API from a browser (the Fetch standard's CORS protocol).

Keys travel in a header that a page must know, so no answer ever allows credentials; and only paths
below `/v1`, which need a key, are opened.
"""

from __future__ import annotations

import re

from server.config import Cors
from server.config.addresses import is_loopback
from server.errors import PermissionDenied
from server.gate import Header, find_header

_THIS_MACHINE = re.compile(rb"https?://(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?")
_HEADER_NAMES = re.compile(rb"[a-z0-9!#$%&'*+.^_`|~, -]{1,4096}", re.IGNORECASE)
_METHODS = b"GET, HEAD, POST, DELETE"
_MAX_AGE_S = 600
_EXPOSED = b", ".join(
    [
        b"openai-model",
        b"openai-organization",
        b"openai-processing-ms",
        b"openai-project",
        b"openai-version",
        b"retry-after",
        b"retry-after-ms",
        b"server-timing",
        *(
            b"x-ratelimit-%b-%b" % (what, of)
            for what in (b"limit", b"remaining", b"reset")
            for of in (b"requests", b"tokens")
        ),
        b"x-request-id",
        b"x-should-retry",
    ]
)


class CorsPolicy:
    def __init__(self, settings: Cors, host: str) -> None:
        named = settings.allow_origins
        self._this_machine = named is None and is_loopback(host)
        self._all = named is not None and "*" in named
        self._named = frozenset(origin.encode() for origin in named or ())
        self.is_on = self._this_machine or bool(named)

    def headers(self, request_headers: list[Header]) -> tuple[Header, ...]:
        """For the answer to a request; none, if it comes from no page or from none that may."""
        origin = find_header(request_headers, b"origin")
        if origin is None or not self._allows(origin):
            return ()
        return (
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", _EXPOSED),
            (b"vary", b"Origin"),
        )

    def preflight(self, request_headers: list[Header]) -> tuple[Header, ...] | None:
        """For the answer to an `OPTIONS` that a browser sends first; None, if it is another's.
        Raises PermissionDenied."""
        origin = find_header(request_headers, b"origin")
        method = find_header(request_headers, b"access-control-request-method")
        if origin is None or method is None:
            return None
        if not self._allows(origin):
            raise PermissionDenied(
                "Pages of this origin may not call the service (the setting cors.allow_origins).",
                code="origin_not_allowed",
            )
        wanted = find_header(request_headers, b"access-control-request-headers") or b""
        return (
            (b"access-control-allow-origin", origin),
            (b"access-control-allow-methods", _METHODS),
            (
                b"access-control-allow-headers",
                wanted if _HEADER_NAMES.fullmatch(wanted) else b"authorization, content-type",
            ),
            (b"access-control-max-age", b"%d" % _MAX_AGE_S),
            (b"vary", b"Origin, Access-Control-Request-Headers"),
        )

    def _allows(self, origin: bytes) -> bool:
        if self._this_machine:
            return _THIS_MACHINE.fullmatch(origin) is not None
        return self._all or origin in self._named
