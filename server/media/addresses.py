"""Which addresses a media URL may lead to.

A name is resolved once, every address it has is checked, and the connection goes to a checked
address: a name that answers differently the second time gains nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from server.config import Media
from server.media.problems import MediaProblem, Problem

_DEFAULT_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
"""Stands for an IPv4 address behind a translator (RFC 6052), which may be a private one."""


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that may be fetched, and the addresses to connect to."""

    url: SplitResult
    host: str
    port: int
    addresses: tuple[str, ...]

    @property
    def authority(self) -> str:
        """The `Host` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        is_default = self.port == _DEFAULT_PORTS[self.url.scheme]
        return host if is_default else f"{host}:{self.port}"


class AddressPolicy:
    def __init__(self, settings: Media) -> None:
        self._allowed = frozenset(map(_place, settings.allowed_hosts))
        self._private = frozenset(map(_place, settings.private_hosts))

    async def locate(self, url: str) -> Target:
        """Raises MediaProblem for a URL that must not be fetched."""
        split, host, port = _read(url)
        places: set[tuple[str, int | None]] = {(host, port)}
        if port == _DEFAULT_PORTS[split.scheme]:
            places.add((host, None))
        if self._allowed.isdisjoint(places):
            raise MediaProblem(
                Problem.URL, "Its host is not one that this server downloads from; use a data URL."
            )
        addresses = await _resolve(host, port)
        if self._private.isdisjoint(places) and not all(map(is_public, addresses)):
            raise MediaProblem(Problem.URL, "Its host is not at a public address.")
        return Target(split, host, port, tuple(addresses))


def is_public(address: str) -> bool:
    """Whether the address is one of the public internet, whatever it is wrapped in."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in _NAT64:
            return False
        wrapped = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if wrapped is not None:
            return is_public(str(wrapped))
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def _place(entry: str) -> tuple[str, int | None]:
    host, port = entry, None
    if entry.count(":") == 1 or entry.startswith("["):
        split = urlsplit(f"//{entry}")
        host, port = split.hostname or "", split.port
    return _canonical(host), port


def _canonical(host: str) -> str:
    return host.rstrip(".").lower()


def _read(url: str) -> tuple[SplitResult, str, int]:
    try:
        split = urlsplit(url)
        host, port = split.hostname, split.port
        if host is not None:
            host = _canonical(host).encode("idna" if not host.isascii() else "ascii").decode()
    except ValueError:
        raise MediaProblem(Problem.URL, "It is not a valid URL.") from None
    if split.scheme not in _DEFAULT_PORTS or not host:
        raise MediaProblem(Problem.URL, "Expected a data URL, or one of http or https.")
    if split.username is not None or split.password is not None:
        raise MediaProblem(Problem.URL, "The URL must not hold a user name or password.")
    return split, host, port or _DEFAULT_PORTS[split.scheme]


async def _resolve(host: str, port: int) -> Sequence[str]:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        raise MediaProblem(Problem.DOWNLOAD, "The URL's host was not found.") from None
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not addresses:
        raise MediaProblem(Problem.DOWNLOAD, "The URL's host was not found.")
    return addresses
