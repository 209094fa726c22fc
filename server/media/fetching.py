"""Downloads media from allowed hosts, within a size and a time."""

from __future__ import annotations

import asyncio
from urllib.parse import urljoin

import httpx

from server.config import Media
from server.media.addresses import AddressPolicy, Target
from server.media.problems import MediaProblem, Problem

_MAX_REDIRECTS = 3
_MAX_AT_ONCE = 64
"""Downloads under way on one gateway; more wait for these."""
_OK = 200
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Budget:
    """How many bytes a request's media may still have, all together."""

    def __init__(self, settings: Media) -> None:
        self._left = settings.max_total_bytes
        self._max_bytes = settings.max_bytes

    @property
    def max_bytes(self) -> int:
        return min(self._max_bytes, self._left)

    def check(self, num_bytes: int) -> None:
        """Of one part so far. Raises MediaProblem."""
        if num_bytes > self.max_bytes:
            raise MediaProblem(
                Problem.TOO_LARGE,
                f"It is larger than the limit of {self._max_bytes} bytes, or all media of the "
                "request are larger than theirs.",
            )

    def spend(self, num_bytes: int) -> None:
        """Raises MediaProblem."""
        self.check(num_bytes)
        self._left -= num_bytes


class Fetcher:
    """`close` must be called."""

    def __init__(self, settings: Media) -> None:
        self._policy = AddressPolicy(settings)
        self._timeout_s = settings.timeout_s
        self._places = asyncio.Semaphore(_MAX_AT_ONCE)
        # Proxies and credentials of the environment would lead past the address check.
        self._client = httpx.AsyncClient(
            trust_env=False, follow_redirects=False, timeout=settings.timeout_s
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def fetch(self, url: str, budget: Budget) -> bytes:
        """Raises MediaProblem."""
        async with self._places:
            try:
                async with asyncio.timeout(self._timeout_s):
                    return await self._follow(url, budget)
            except TimeoutError:
                reason = f"It could not be downloaded within {self._timeout_s:g} s."
                raise MediaProblem(Problem.DOWNLOAD, reason) from None

    async def _follow(self, url: str, budget: Budget) -> bytes:
        for _ in range(_MAX_REDIRECTS + 1):
            target = await self._policy.locate(url)
            answer = await self._ask(target, budget)
            if isinstance(answer, bytes):
                return answer
            url = urljoin(url, answer)
        raise MediaProblem(Problem.DOWNLOAD, "It is redirected too often.")

    async def _ask(self, target: Target, budget: Budget) -> bytes | str:
        """The body, or where a redirect leads. Tries the addresses in their order."""
        for address in target.addresses:
            try:
                return await self._ask_at(address, target, budget)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue
            except (httpx.HTTPError, httpx.InvalidURL):
                raise MediaProblem(Problem.DOWNLOAD, "The download failed.") from None
        raise MediaProblem(Problem.DOWNLOAD, "The URL's host could not be reached.")

    async def _ask_at(self, address: str, target: Target, budget: Budget) -> bytes | str:
        """The certificate is checked for the host's name, though an address is connected to."""
        at = f"[{address}]" if ":" in address else address
        split = target.url._replace(netloc=f"{at}:{target.port}", fragment="")
        headers = {"Host": target.authority, "Accept-Encoding": "identity"}
        extensions = {"sni_hostname": target.host}
        async with self._client.stream(
            "GET", split.geturl(), headers=headers, extensions=extensions
        ) as response:
            if response.status_code in _REDIRECTS and "location" in response.headers:
                return response.headers["location"]
            if response.status_code != _OK:
                reason = f"Its host answered with status {response.status_code}."
                raise MediaProblem(Problem.DOWNLOAD, reason)
            if response.headers.get("content-encoding", "identity") != "identity":
                raise MediaProblem(Problem.DOWNLOAD, "Its host sends it compressed.")
            return await _read(response, budget)


async def _read(response: httpx.Response, budget: Budget) -> bytes:
    announced = response.headers.get("content-length", "0")
    budget.check(int(announced) if announced.isdecimal() else 0)
    data = bytearray()
    async for chunk in response.aiter_raw():
        data += chunk
        budget.check(len(data))
    return bytes(data)
