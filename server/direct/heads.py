"""What a request's head may be: how large, in which version, and with which framing."""

from __future__ import annotations

from server.errors import HeadTooLarge, InvalidRequest, UnsupportedVersion
from server.gate import Header

MAX_HEAD_BYTES = 64 * 1024
PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
"""Answered on connections above the limit too."""
OF_ORIGIN_OR_CODING = frozenset({b"content-encoding", b"origin"})
"""Few requests have them; the others are not searched for them."""
LOOKED_AT = frozenset({b"expect", b"te", b"transfer-encoding"}) | OF_ORIGIN_OR_CODING


def check_version(version: str) -> None:
    if version not in ("1.1", "1.0"):
        raise UnsupportedVersion(version)


def check_size(url: bytes, headers: list[Header]) -> None:
    size = len(url) + sum(len(name) + len(value) for name, value in headers)
    if size > MAX_HEAD_BYTES:
        raise HeadTooLarge()


def check_framing(name: bytes, value: bytes, headers: list[Header]) -> None:
    """Of a `te` or `transfer-encoding` header; `headers` are those before it. A body is framed by
    its chunks or its length; in any other transfer encoding two servers could see two bodies."""
    if name == b"transfer-encoding":
        if value.strip().lower() != b"chunked" or any(other == name for other, _ in headers):
            raise InvalidRequest(
                "Invalid 'Transfer-Encoding': only 'chunked' is supported.",
                code="unsupported_transfer_encoding",
            )
    elif name == b"te" and b"chunked" in value.lower():
        raise InvalidRequest(
            "Invalid 'TE': it does not name 'chunked' (RFC 9110, 10.1.4).",
            code="unsupported_transfer_encoding",
        )
