"""What pictures, video and sound of requests may cost, and where they may be fetched from."""

from __future__ import annotations

from pydantic import Field

from server.config.section import Section


class Media(Section):
    allowed_hosts: tuple[str, ...] = ()
    """Hosts that URLs in requests may name: `images.example.com` (the ports of http and https), or
    `images.example.com:8080`. None by default: only data URLs are taken."""
    private_hosts: tuple[str, ...] = ()
    """Those of `allowed_hosts` that may be at private addresses (an image server of your own).
    All others are never connected to at an address that is not public."""
    max_bytes: int = Field(default=20 * 1024 * 1024, ge=1)
    """Of one picture, clip or sound."""
    max_total_bytes: int = Field(default=64 * 1024 * 1024, ge=1, le=192 * 1024 * 1024)
    """Of all of a request."""
    max_parts: int = Field(default=50, ge=1)
    """In one request."""
    timeout_s: float = Field(default=10.0, gt=0)
    """For one download, redirects included."""
