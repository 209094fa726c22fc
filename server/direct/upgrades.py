"""Offers to go on in another protocol, which this server always declines."""

from __future__ import annotations

import httptools

from server.gate import Header

_CONNECTION, _UPGRADE = b"connection", b"upgrade"


def without_upgrade(
    parser: httptools.HttpRequestParser, url: bytes, headers: list[Header]
) -> bytes:
    """The head that was just parsed, as it would be without its offer."""
    lines = [b"%b %b HTTP/%b" % (parser.get_method(), url, parser.get_http_version().encode())]
    for name, value in headers:
        if name == _CONNECTION:
            kept = [option for option in value.split(b",") if option.strip().lower() != _UPGRADE]
            value = b",".join(kept)
        if name != _UPGRADE:
            lines.append(b"%b: %b" % (name, value))
    return b"\r\n".join([*lines, b"", b""])
