"""Finds where a template ends the text of a final message that is to be continued."""

from __future__ import annotations

from msgspec.structs import replace

from templates.conversation import ChatMessage, Conversation, TextPart
from templates.format import FormatError


def tagged(conversation: Conversation) -> tuple[Conversation, str]:
    word = "tuneyardcontinueshere "
    last = conversation.messages[-1]
    parts = (*last.parts[:-1], TextPart(_last_text(last) + word))
    tagged = replace(last, parts=parts)
    return replace(conversation, messages=(*conversation.messages[:-1], tagged)), word


def _last_text(message: ChatMessage) -> str:
    return getattr(message.parts[-1], "text", "")


def cut(text: str, tag: str) -> str:
    position = text.rfind(tag.strip())
    if position < 0:
        raise FormatError(
            "The model's chat template does not keep the final message as it is, so it cannot be "
            "continued.",
            "continue_final_message",
        )
    kept = text[:position]
    return kept if text.startswith(tag, position) else kept.rstrip()
