"""What a request's model is shown: the items of earlier responses, then the request's own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
from pydantic import TypeAdapter, ValidationError

from server.body_size import LARGE_BODY_BYTES, check_size
from server.errors import InvalidRequest, NotFound, RateLimited, invalid_value
from server.responses.conversation import Item
from server.responses.ids import response_of
from server.responses.items import InputItem, ItemReference
from server.store.responses import UNFINISHED, StoredResponse

MAX_CHAIN = 1000
"""Responses that one may go on from, one after another."""
MAX_CONTEXT_BYTES = 16 * 1024 * 1024
"""Of the stored responses that one request goes on from or refers to."""

MAX_CONTEXT_ITEMS = 16_384
"""Of the responses that one request goes on from."""
MAX_LOADED_AT_ONCE = 4
"""Requests of one project whose responses are read; others wait."""
MAX_LOADS_OF_PROJECT = 256
"""Requests of one project that are among them or wait; one more is a 429."""

_ITEMS: TypeAdapter[list[Any]] = TypeAdapter(list[InputItem])


class _WithOutput(msgspec.Struct):
    output: msgspec.Raw


class Context(msgspec.Struct, frozen=True):
    own: tuple[Item, ...] | str
    """The request's input, its references resolved."""
    earlier: tuple[Item, ...] = ()
    previous: StoredResponse | None = None


class Kept(Protocol):
    async def find(self, project_id: str, response_id: str) -> StoredResponse | None: ...
    async def chain(self, project_id: str, response_id: str) -> tuple[StoredResponse, ...]: ...


class _Project:
    """One project's loads: how many are under way or wait, and the turns they take."""

    def __init__(self) -> None:
        self.num_inside = 0
        self.turns = asyncio.Semaphore(MAX_LOADED_AT_ONCE)


class ContextLoader:
    """Reads kept responses, a few at once for each project: one context may be large."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._projects: dict[str, _Project] = {}

    async def load(
        self, project_id: str, body_input: str | Sequence[Item] | None, previous_id: str | None
    ) -> Context:
        """Raises InvalidRequest, NotFound for a reference to nothing, and RateLimited."""
        own = body_input if isinstance(body_input, str) else tuple(body_input or ())
        if previous_id is None and (isinstance(own, str) or not any(map(_refers, own))):
            return Context(own)
        project = self._projects.setdefault(project_id, _Project())
        if project.num_inside >= MAX_LOADS_OF_PROJECT:
            raise RateLimited(
                "Too many kept responses are being read for your project. Please retry.",
                retry_after_s=1.0,
            )
        project.num_inside += 1
        try:
            async with project.turns:
                return await _load(self._kept, project_id, own, previous_id)
        finally:
            project.num_inside -= 1
            if not project.num_inside:
                del self._projects[project_id]


def _refers(item: Item) -> bool:
    return isinstance(item, ItemReference)


async def _load(
    kept: Kept, project_id: str, own: str | tuple[Item, ...], previous_id: str | None
) -> Context:
    earlier: list[Item] = []
    previous = None
    if previous_id is not None:
        chain = await _load_chain(kept, project_id, previous_id)
        previous = chain[-1]
        for response in chain:
            earlier += await _items_of(response, "previous_response_id")
            if len(earlier) > MAX_CONTEXT_ITEMS:
                raise _too_long()
            await asyncio.sleep(0)
    if not isinstance(own, str):
        own = tuple(await _References(kept, project_id).resolve(own))
    return Context(own, tuple(earlier), previous)


async def _load_chain(kept: Kept, project_id: str, previous_id: str) -> tuple[StoredResponse, ...]:
    last = await kept.find(project_id, previous_id)
    if last is None:
        raise _no_previous(previous_id)
    if last.status in UNFINISHED:
        raise InvalidRequest(
            f"Previous response with id '{previous_id}' has not ended yet: it is '{last.status}'.",
            param="previous_response_id",
            code="previous_response_not_finished",
        )
    if last.depth >= MAX_CHAIN or last.context_bytes > MAX_CONTEXT_BYTES:
        raise _too_long()
    if last.previous_id is None:
        return (last,)
    chain = await kept.chain(project_id, previous_id)
    if not chain or chain[0].previous_id is not None:
        gone = (chain[0].previous_id if chain else None) or previous_id
        raise _no_previous(gone)
    return chain


def _too_long() -> InvalidRequest:
    return InvalidRequest(
        "The conversation before this response is too long to go on from it: at most "
        f"{MAX_CHAIN} responses, {MAX_CONTEXT_ITEMS} items and {MAX_CONTEXT_BYTES} bytes are taken "
        "up again.",
        param="previous_response_id",
        code="context_length_exceeded",
    )


def _no_previous(response_id: str) -> InvalidRequest:
    return InvalidRequest(
        f"Previous response with id '{response_id[:128]}' not found.",
        param="previous_response_id",
        code="previous_response_not_found",
    )


async def _items_of(response: StoredResponse, param: str) -> list[Item]:
    """Raises InvalidRequest, which names `param`."""
    items: list[Item] = []
    for data in (response.input.encode(), _output_of(response)):
        if len(data) > LARGE_BODY_BYTES:
            await check_size(data)
        try:
            items += _ITEMS.validate_json(data)
        except ValidationError as error:
            raise invalid_value(
                param, f"The items of '{response.id}' cannot be given to a model again."
            ) from error
    return items


def _output_of(response: StoredResponse) -> bytes:
    return bytes(msgspec.json.decode(response.body, type=_WithOutput).output)


class _References:
    def __init__(self, kept: Kept, project_id: str) -> None:
        self._kept = kept
        self._project_id = project_id
        self._num_bytes = 0
        self._referred: set[str] = set()
        self._found: dict[str, dict[str, Item]] = {}
        """The items of each response that was referred to, by their ids."""

    async def resolve(self, items: Sequence[Item]) -> list[Item]:
        resolved: list[Item] = []
        for index, item in enumerate(items):
            if isinstance(item, ItemReference):
                if item.id in self._referred:
                    raise invalid_value(f"input[{index}].id", "An item is referred to once.")
                self._referred.add(item.id)
                item = await self._find(item.id, index)
            resolved.append(item)
        return resolved

    async def _find(self, item_id: str, index: int) -> Item:
        response_id = response_of(item_id)
        if response_id is not None and response_id not in self._found:
            self._found[response_id] = await self._load(response_id, index)
        item = None if response_id is None else self._found[response_id].get(item_id)
        if item is None:
            raise NotFound(
                f"Item with id '{item_id}' not found. Items are not kept of responses with "
                "'store' set to false.",
                param=f"input[{index}].id",
            )
        return item

    async def _load(self, response_id: str, index: int) -> dict[str, Item]:
        response = await self._kept.find(self._project_id, response_id)
        if response is None:
            return {}
        self._num_bytes += len(response.body) + len(response.input)
        if self._num_bytes > MAX_CONTEXT_BYTES:
            raise InvalidRequest(
                f"The responses referred to have more than {MAX_CONTEXT_BYTES} bytes together.",
                param=f"input[{index}].id",
                code="context_length_exceeded",
            )
        items: dict[str, Item] = {}
        for item in await _items_of(response, f"input[{index}].id"):
            item_id = getattr(item, "id", None)
            if isinstance(item_id, str):
                items[item_id] = item
        return items
