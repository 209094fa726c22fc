"""The order of a row's messages: who answers whom, and who speaks last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from templates.conversation import ChatMessage, Role
from templates.example_fields import ExampleError


def check_order(messages: Sequence[ChatMessage]) -> None:
    """Raises ExampleError. Calls of the last message are left open: they are what is learned."""
    calls: _Calls | None = None
    for number, message in enumerate(messages, 1):
        if message.role is Role.TOOL:
            _answer(calls, number, message)
            continue
        if calls is not None:
            calls.check_answered()
        calls = _Calls(number, message) if message.tool_calls else None
    if messages[-1].role is not Role.ASSISTANT:
        raise ExampleError("the last message must be from the assistant")


class _Calls:
    """Calls of one message that wait for their answers: by id, or the one of the older
    `function_call`, which has none, by its name."""

    def __init__(self, number: int, caller: ChatMessage) -> None:
        self._number = number
        self.are_functions = caller.tool_calls[0].id is None
        self.waiting = Counter(
            call.name if call.id is None else call.id for call in caller.tool_calls
        )

    def check_answered(self) -> None:
        """A `function_call` need not be answered."""
        if not self.are_functions and self.waiting.total():
            raise ExampleError(
                f"message {self._number} is an assistant message with 'tool_calls', which must be "
                "followed by tool messages responding to each 'tool_call_id'"
            )


def _answer(calls: _Calls | None, number: int, message: ChatMessage) -> None:
    is_function = message.tool_call_id is None
    if calls is None or calls.are_functions != is_function:
        is_named = is_function and message.name is not None
        role, field = ("function", "function_call") if is_named else ("tool", "tool_calls")
        raise ExampleError(
            f"message {number} with role '{role}' must be a response to a preceding message with "
            f"'{field}'"
        )
    field = "name" if is_function else "tool_call_id"
    key = getattr(message, field)
    if not calls.waiting[key]:
        raise ExampleError(
            f"message {number} '{field}' is no call of the assistant message before it that still "
            "needs an answer"
        )
    calls.waiting[key] -= 1
