"""How a chat request wants its conversation rendered."""

from __future__ import annotations

from typing import Any

from server.chat.schemas import ChatCompletionRequest
from server.errors import InvalidRequest, invalid_value, unsupported_value
from templates.conversation import ChatMessage, RenderOptions, Role


def read_options(body: ChatCompletionRequest, messages: tuple[ChatMessage, ...]) -> RenderOptions:
    """Raises InvalidRequest."""
    continues = bool(body.continue_final_message)
    if continues and messages[-1].role is not Role.ASSISTANT:
        raise invalid_value(
            "continue_final_message", "The last message must be from the assistant."
        )
    if continues and body.add_generation_prompt:
        raise invalid_value(
            "continue_final_message", "It cannot be combined with 'add_generation_prompt'."
        )
    if body.add_generation_prompt is False and not continues:
        raise unsupported_value(
            "add_generation_prompt", "It may be false only with 'continue_final_message'."
        )
    extra = dict(body.chat_template_kwargs or {})
    thinking = _switch(extra, "enable_thinking")
    if body.enable_thinking is not None:
        if thinking is not None:
            raise invalid_value("enable_thinking", "It is given in 'chat_template_kwargs' too.")
        thinking = body.enable_thinking
    return RenderOptions(
        enable_thinking=thinking,
        reasoning_effort=body.reasoning_effort,
        thinking_budget=body.thinking_budget,
        preserve_thinking=_switch(extra, "preserve_thinking"),
        continue_final_message=continues,
        documents=tuple(body.documents or ()),
        template_kwargs=extra,
    )


def _switch(extra: dict[str, Any], name: str) -> bool | None:
    """Takes a switch that is not the template's alone out of `chat_template_kwargs`."""
    value = extra.pop(name, None)
    if value is not None and not isinstance(value, bool):
        raise InvalidRequest(
            f"Invalid type for 'chat_template_kwargs.{name}': expected a boolean.",
            param=f"chat_template_kwargs.{name}",
            code="invalid_type",
        )
    return value
