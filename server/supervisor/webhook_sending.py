"""One event to one receiver, signed as Standard Webhooks has it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import time
from urllib.parse import urlsplit

import httpx
import msgspec

from server.config import Media
from server.config.webhooks import WebhookEntry
from server.media.addresses import AddressPolicy, Target
from server.media.problems import MediaProblem
from server.store.webhooks import Delivery

TIMEOUT_S = 15.0
_USER_AGENT = "Tuneyard-Webhooks/1"


class NotDeliveredError(Exception):
    """The receiver has not taken the event; the message is for the operator."""


class WebhookSender:
    """Sends to one receiver. A redirect is not followed: it is a failure like any other."""

    def __init__(self, entry: WebhookEntry, client: httpx.AsyncClient) -> None:
        self._entry = entry
        self._client = client
        place = _place(entry.url)
        hosts = (place,)
        self._policy = AddressPolicy(
            Media(allowed_hosts=hosts, private_hosts=hosts if entry.private else ())
        )

    async def send(self, delivery: Delivery) -> None:
        """Raises NotDeliveredError."""
        body = event_body(delivery)
        headers = signed_headers(self._entry.key, delivery.event_id, int(time.time()), body)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                status = await self._post(await self._policy.locate(self._entry.url), headers, body)
        except TimeoutError:
            raise NotDeliveredError(f"no answer within {TIMEOUT_S:g} s") from None
        except MediaProblem as problem:
            raise NotDeliveredError(str(problem)) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise NotDeliveredError(type(error).__name__) from None
        if not 200 <= status < 300:
            raise NotDeliveredError(f"answered with status {status}")

    async def _post(self, target: Target, headers: dict[str, str], body: bytes) -> int:
        """Connects to an address that was checked; the certificate is checked for the host."""
        for number, address in enumerate(target.addresses, 1):
            at = f"[{address}]" if ":" in address else address
            url = target.url._replace(netloc=f"{at}:{target.port}", fragment="").geturl()
            try:
                async with self._client.stream(
                    "POST",
                    url,
                    content=body,
                    headers={**headers, "Host": target.authority},
                    extensions={"sni_hostname": target.host},
                ) as response:
                    return response.status_code
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if number == len(target.addresses):
                    raise
        raise AssertionError("a host has an address")


def event_body(delivery: Delivery) -> bytes:
    return msgspec.json.encode(
        {
            "id": delivery.event_id,
            "object": "event",
            "created_at": delivery.created_at,
            "type": delivery.kind,
            "data": {"id": delivery.object_id},
        }
    )


def signed_headers(key: bytes, event_id: str, at: int, body: bytes) -> dict[str, str]:
    signed = f"{event_id}.{at}.".encode() + body
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    return {
        "Content-Type": "application/json",
        "User-Agent": _USER_AGENT,
        "webhook-id": event_id,
        "webhook-timestamp": str(at),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def _place(url: str) -> str:
    """As `allowed_hosts` has hosts."""
    split = urlsplit(url)
    host = split.hostname or ""
    port = split.port or (443 if split.scheme == "https" else 80)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
