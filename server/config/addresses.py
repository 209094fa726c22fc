"""Addresses of engine workers on other hosts."""

from __future__ import annotations

import ipaddress
import re

_ADDRESS = re.compile(r"(?P<scheme>tcp|tls):(?P<host>\[[0-9a-fA-F:.]+\]|[^:\s/]+):\d{1,5}")


def check_address(address: str, *, insecure: bool) -> None:
    """Over plain TCP the token, and all that is generated, can be read on the way: to another host
    that is for the operator to allow. Raises ValueError."""
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise ValueError(f"addresses: {address!r} is not tls:host:port or tcp:host:port")
    if match["scheme"] == "tcp" and not insecure and not is_loopback(match["host"]):
        raise ValueError(
            f"addresses: {address!r} would be sent the token in clear: give the worker a "
            "certificate (`tuneyard engine --tls-cert`) and write tls:, or set insecure: true for "
            "a private network or a tunnel"
        )


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
