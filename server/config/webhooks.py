"""Where the endings of jobs are told of."""

from __future__ import annotations

import base64
import binascii
from enum import StrEnum
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from server.config.section import Section

SECRET_PREFIX = "whsec_"
_MIN_SECRET_BYTES = 16


class WebhookEvent(StrEnum):
    JOB_SUCCEEDED = "fine_tuning.job.succeeded"
    JOB_FAILED = "fine_tuning.job.failed"
    JOB_CANCELLED = "fine_tuning.job.cancelled"
    BATCH_COMPLETED = "batch.completed"
    BATCH_FAILED = "batch.failed"
    BATCH_EXPIRED = "batch.expired"
    BATCH_CANCELLED = "batch.cancelled"
    RESPONSE_COMPLETED = "response.completed"
    RESPONSE_FAILED = "response.failed"
    RESPONSE_CANCELLED = "response.cancelled"
    RESPONSE_INCOMPLETE = "response.incomplete"


class WebhookEntry(Section):
    """A receiver of events, signed as Standard Webhooks has it (`client.webhooks.unwrap`)."""

    url: str = Field(max_length=2048)
    secret: str = Field(repr=False)
    """`whsec_` and at least 16 bytes in base64; the receiver has the same."""
    events: tuple[WebhookEvent, ...] = Field(default=tuple(WebhookEvent), min_length=1)
    projects: tuple[str, ...] | None = None
    """Ids of the projects whose events are sent; None: all of them."""
    private: bool = False
    """Whether the host may be at an address that is not public."""

    @field_validator("url")
    @classmethod
    def _url_can_be_posted_to(cls, url: str) -> str:
        split = urlsplit(url)
        if split.scheme not in ("http", "https") or not split.hostname:
            raise ValueError("expected a URL of http or https")
        if split.username is not None or split.password is not None:
            raise ValueError("the URL must not hold a user name or password")
        return url

    @field_validator("secret")
    @classmethod
    def _secret_is_a_key(cls, secret: str) -> str:
        if len(_key(secret)) < _MIN_SECRET_BYTES:
            raise ValueError(
                f"expected {SECRET_PREFIX} and at least {_MIN_SECRET_BYTES} bytes in base64"
            )
        return secret

    @property
    def key(self) -> bytes:
        return _key(self.secret)


def _key(secret: str) -> bytes:
    """Empty if the secret holds none."""
    if not secret.startswith(SECRET_PREFIX):
        return b""
    try:
        return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        return b""
