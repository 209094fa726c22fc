"""Calls a method of the official package in each of the ways that it has, and says what came."""

from __future__ import annotations

import asyncio
import inspect
import operator
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import openai

from tests.clients.sdk_calls import CALLS, STREAMED, World
from tests.clients.sdk_surface import placeholders

REFUSALS = ("unsupported_endpoint", "method_not_supported", "insufficient_permissions")
"""The last is of routes outside of /v1/organization, which an admin key does not open."""
_MESSAGES = "chat.completions.messages.list"
LENIENT = frozenset({"fine_tuning.jobs.pause", _MESSAGES, f"beta.{_MESSAGES}"})
"""Their answers are not validated: the package's type of a job knows no status `paused`, and that
of a stored message no role but `assistant`."""
WAYS = ("sync", "async", "raw", "streaming", "stream=True")


@dataclass
class Trial:
    sync: openai.OpenAI
    world: World

    def client_for(self, path: str) -> openai.OpenAI:
        return self.sync if path not in LENIENT else self.world.client

    def asynchronous(self, strict: bool) -> openai.AsyncOpenAI:
        """Of the running loop."""
        client = self.sync
        return openai.AsyncOpenAI(
            base_url=client.base_url,
            api_key=client.api_key,
            admin_api_key=client.admin_api_key,
            max_retries=0,
            timeout=client.timeout,
            _strict_response_validation=strict,
        )

    async def works(self, path: str) -> dict[str, bool]:
        """By way: whether it was called so, if the package has it so. Raises what came instead."""
        ways: dict[str, Callable[[str], Awaitable[bool]]] = {
            "sync": self._plainly,
            "async": self._asynchronously,
            "raw": self._raw,
            "streaming": self._streaming,
            "stream=True": self._streamed,
        }
        return {way: await ways[way](path) for way in WAYS}

    async def arguments(self, path: str) -> dict[str, Any]:
        return await asyncio.to_thread(CALLS[path], self.world)

    async def _plainly(self, path: str) -> bool:
        arguments = await self.arguments(path)
        await asyncio.to_thread(_finish, find(self.client_for(path), path), arguments)
        return True

    async def _asynchronously(self, path: str) -> bool:
        async with self.asynchronous(path not in LENIENT) as client:
            answer = find(client, path)(**await self.arguments(path))
            if inspect.isawaitable(answer):
                await answer
                return True
            async with answer as opened:
                async for _ in opened:
                    pass
        return True

    async def _raw(self, path: str) -> bool:
        method = find(self.client_for(path), path, "with_raw_response")
        if method is None:
            return False
        answer = await asyncio.to_thread(method, **await self.arguments(path))
        answer.parse()
        return True

    async def _streaming(self, path: str) -> bool:
        async with self.asynchronous(path not in LENIENT) as client:
            method = find(client, path, "with_streaming_response")
            if method is None:
                return False
            async with method(**await self.arguments(path)) as answer:
                await answer.parse()
        return True

    async def _streamed(self, path: str) -> bool:
        if path not in STREAMED:
            return False
        # A chunk's finish_reason is null until the last, which the package's own type forbids.
        async with self.asynchronous(strict=path != "completions.create") as client:
            stream = await find(client, path)(**await self.arguments(path), stream=True)
            events = [event async for event in stream]
        assert events
        return True

    def refusal(self, path: str, method: Any) -> str | None:
        """The code and message that it is refused with, or None if it is not refused by name."""
        try:
            find(self.sync, path)(**placeholders(method))
        except openai.APIStatusError as error:
            message = error.body.get("message", "") if isinstance(error.body, dict) else ""
            return f"{error.code}: {message}" if error.code in REFUSALS else None
        return None


def find(client: Any, path: str, view: str | None = None) -> Any:
    """A method, or None if a view of the client has none of its name."""
    parent, _, name = path.rpartition(".")
    resource = operator.attrgetter(parent)(client)
    if view is None:
        return getattr(resource, name)
    return getattr(getattr(resource, view), name, None)


def _finish(method: Any, arguments: dict[str, Any]) -> None:
    answer = method(**arguments)
    if type(answer).__name__.endswith("StreamManager"):
        with answer as opened:
            for _ in opened:
                pass
