"""`/v1/chat/completions` over HTTP, but for creating one: completions that are kept."""

from __future__ import annotations

from operator import attrgetter
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Request

from server.auth import Caller
from server.bodies import json_of
from server.chat.schemas import (
    ChangeStoredCompletion,
    ChatCompletion,
    StoredCompletionDeleted,
    StoredMessage,
)
from server.errors import NotFound
from server.openapi import json_body, refusals
from server.paging import Listing, cut, no_such_cursor
from server.query import metadata_filter
from server.rows import Rows
from server.store import Store
from server.store.cursors import UnknownCursorError
from server.store.stored_completions import StoredCompletion

MAX_PAGE = 100
router = APIRouter(prefix="/v1/chat/completions", tags=["Chat"])


Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]
Order = Literal["asc", "desc"]


@router.get("", summary="List stored chat completions", response_model_exclude_unset=True)
async def list_chat_completions(
    request: Request,
    caller: Caller,
    rows: Rows,
    model: Annotated[str | None, Query(max_length=512)] = None,
    after: Annotated[str | None, Query()] = None,
    limit: Limit = 20,
    order: Order = "asc",
) -> Listing[ChatCompletion]:
    """Those that were made with `store`, the oldest first. `metadata[key]=value` selects by
    metadata."""
    pairs, _ = metadata_filter(request)
    try:
        page = await rows.completions.page(
            caller.project.id,
            after=after,
            limit=limit,
            ascending=order == "asc",
            model=model,
            metadata=pairs,
        )
    except UnknownCursorError as error:
        raise no_such_cursor(error) from None
    return Listing[ChatCompletion].of([_shown(one) for one in page.items], has_more=page.has_more)


@router.get(
    "/{completion_id}",
    summary="Retrieve a stored chat completion",
    response_model_exclude_unset=True,
)
async def retrieve_chat_completion(
    completion_id: str, caller: Caller, rows: Rows
) -> ChatCompletion:
    """As it was answered, with its metadata of now."""
    return _shown(await _find(rows, caller.project.id, completion_id))


@router.post(
    "/{completion_id}",
    openapi_extra=json_body(ChangeStoredCompletion),
    summary="Change a stored chat completion",
    response_model_exclude_unset=True,
    responses=refusals(507),
)
async def update_chat_completion(
    completion_id: str,
    wanted: Annotated[ChangeStoredCompletion, json_of(ChangeStoredCompletion)],
    caller: Caller,
    rows: Rows,
) -> ChatCompletion:
    """Its metadata, and nothing else."""
    project_id = caller.project.id
    if not await rows.completions.change_metadata(project_id, completion_id, wanted.metadata):
        raise _no_such_completion(completion_id)
    return _shown(await _find(rows, project_id, completion_id))


@router.delete(
    "/{completion_id}", summary="Delete a stored chat completion", responses=refusals(507)
)
async def delete_chat_completion(
    completion_id: str, caller: Caller, rows: Rows
) -> StoredCompletionDeleted:
    if not await rows.completions.delete(caller.project.id, completion_id):
        raise _no_such_completion(completion_id)
    return StoredCompletionDeleted(id=completion_id)


@router.get("/{completion_id}/messages", summary="List a stored chat completion's messages")
async def list_chat_completion_messages(
    completion_id: str,
    caller: Caller,
    rows: Rows,
    after: Annotated[str | None, Query()] = None,
    limit: Limit = 20,
    order: Order = "asc",
) -> Listing[StoredMessage]:
    """The messages that it answers."""
    kept = await _find(rows, caller.project.id, completion_id)
    sent: list[dict[str, Any]] = msgspec.json.decode(kept.messages)["messages"]
    messages = [_message(f"{kept.id}-{number}", each) for number, each in enumerate(sent)]
    if order == "desc":
        messages.reverse()
    page, has_more = cut(messages, attrgetter("id"), after=after, limit=limit)
    return Listing[StoredMessage].of([*page], has_more=has_more)


async def _find(rows: Store, project_id: str, completion_id: str) -> StoredCompletion:
    kept = await rows.completions.find(project_id, completion_id)
    if kept is None:
        raise _no_such_completion(completion_id)
    return kept


def _shown(kept: StoredCompletion) -> ChatCompletion:
    body = msgspec.json.decode(kept.body)
    return ChatCompletion.model_validate({**body, "metadata": dict(kept.metadata or {})})


def _message(message_id: str, sent: dict[str, Any]) -> StoredMessage:
    """Content in parts stands apart from text."""
    content = sent.get("content")
    is_text = isinstance(content, str)
    return StoredMessage.model_validate(
        {
            **sent,
            "id": message_id,
            "content": content if is_text else None,
            "content_parts": None if is_text else content,
        }
    )


def _no_such_completion(completion_id: str) -> NotFound:
    return NotFound(
        f"Chat completion with id '{completion_id[:128]}' not found.", param="completion_id"
    )
