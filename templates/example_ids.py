"""Ids of calls that have none, as Hugging Face's chat templates and sharegpt write them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from templates.conversation import ChatMessage, Role
from templates.example_fields import ExampleError
from templates.example_tools import NO_ID


def with_ids(messages: Sequence[ChatMessage]) -> tuple[ChatMessage, ...]:
    """Each call and its answer get one id, as they had when they were served. A call that is
    answered otherwise than one by one goes by its name. Raises ExampleError."""
    if not any(_lacks_id(message) for message in messages):
        return tuple(messages)
    made: list[ChatMessage] = []
    numbers = itertools.count(1)
    at = 0
    while at < len(messages):
        message = messages[at]
        at += 1
        if not message.tool_calls or not _lacks_id(message):
            made.append(_by_name(message) if _lacks_id(message) else message)
            continue
        end = at
        while end < len(messages) and _is_answer(messages[end]):
            end += 1
        try:
            made += _paired(message, messages[at:end], numbers, is_last=end == len(messages))
        except ExampleError as error:
            raise ExampleError(f"message {at} {error}") from error
        at = end
    return tuple(made)


def _lacks_id(message: ChatMessage) -> bool:
    return message.tool_call_id == NO_ID or any(call.id == NO_ID for call in message.tool_calls)


def _is_answer(message: ChatMessage) -> bool:
    return message.role is Role.TOOL and message.tool_call_id == NO_ID


def _by_name(answer: ChatMessage, name: str | None = None) -> ChatMessage:
    return replace(answer, tool_call_id=None, name=answer.name or name)


def _paired(
    caller: ChatMessage, answers: Sequence[ChatMessage], numbers: Iterator[int], *, is_last: bool
) -> Iterator[ChatMessage]:
    calls = caller.tool_calls
    if any(call.id != NO_ID for call in calls):
        raise ExampleError("has tool calls with and without an 'id'")
    if len(answers) == len(calls) or (not answers and is_last):
        ids = [f"call{next(numbers):05}" for _ in calls]
        yield replace(
            caller, tool_calls=tuple(replace(c, id=i) for c, i in zip(calls, ids, strict=True))
        )
        open_calls = [(call.name, i) for call, i in zip(calls, ids, strict=True)]
        for answer in answers:
            chosen = next((c for c in open_calls if c[0] == answer.name), open_calls[0])
            open_calls.remove(chosen)
            yield replace(answer, tool_call_id=chosen[1])
        return
    yield replace(caller, tool_calls=tuple(replace(call, id=None) for call in calls))
    for number, answer in enumerate(answers):
        yield _by_name(answer, calls[min(number, len(calls) - 1)].name)
