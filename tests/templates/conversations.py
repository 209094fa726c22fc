"""Conversations of many shapes, as ours and as transformers takes them."""

from __future__ import annotations

import json
from typing import Any

from templates.conversation import (
    ChatMessage,
    Conversation,
    RenderOptions,
    Role,
    TextPart,
    Tool,
    ToolCall,
)

WEATHER = Tool(
    "get_weather",
    "Get the current weather",
    {
        "type": "object",
        "properties": {"city": {"type": "string", "description": "City <name> & 'more'"}},
        "required": ["city"],
    },
)
CALL = ToolCall("get_weather", json.dumps({"city": "北京"}, ensure_ascii=False), id="call12345")


def says(role: str, text: str, **fields: Any) -> ChatMessage:
    return ChatMessage(Role(role), (TextPart(text),), **fields)


ASKS = says("user", "What is the weather?")
CALLS = ChatMessage(Role.ASSISTANT, tool_calls=(CALL,))
RESULT = says("tool", '{"temp": 21}', tool_call_id="call12345")

CONVERSATIONS = {
    "single": Conversation((says("user", "How are you?"),)),
    "system": Conversation((says("system", "Be brief."), says("user", "Hi"))),
    "turns": Conversation((says("user", "1+1?"), says("assistant", "2"), says("user", " 2+2? "))),
    "tools": Conversation((says("system", "Be brief."), ASKS), (WEATHER,)),
    "result": Conversation((ASKS, CALLS, RESULT), (WEATHER,)),
    "chinese": Conversation((says("user", "你好 🙂\n\n\tok"),)),
}


def with_options(conversation: Conversation, **options: Any) -> Conversation:
    return Conversation(conversation.messages, conversation.tools, RenderOptions(**options))


def as_transformers(conversation: Conversation) -> dict[str, Any]:
    """Arguments of `apply_chat_template`."""
    tools = [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters,
            },
        }
        for tool in conversation.tools
    ]
    messages = [_message(message) for message in conversation.messages]
    return {"conversation": messages, "tools": tools or None}


def _message(message: ChatMessage) -> dict[str, Any]:
    shown: dict[str, Any] = {"role": str(message.role), "content": message.text}
    if message.tool_calls:
        shown["tool_calls"] = [
            {
                "type": "function",
                "id": call.id,
                "function": {"name": call.name, "arguments": json.loads(call.arguments)},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        shown["tool_call_id"] = message.tool_call_id
    if message.reasoning is not None:
        shown["reasoning_content"] = message.reasoning
    return shown
