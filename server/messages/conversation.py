"""From Anthropic's turns to the messages of a conversation: a turn may hold results of tools, which
are messages of their own, and turns of one role that follow each other are one."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from server.errors import InvalidRequest, invalid_value, unsupported_value
from server.generation.answers import to_json
from server.messages.blocks import (
    ImageBlock,
    LinkedImage,
    RedactedThinkingBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from server.messages.schemas import CountMessageTokens, MessageTurn
from server.responses.thoughts import open_thought
from templates.conversation import ChatMessage, MediaKind, MediaPart, Part, Role, TextPart, ToolCall

_ROLES = {"user": Role.USER, "system": Role.SYSTEM}


class Transcript:
    """`places` are those of the messages in the body."""

    def __init__(self) -> None:
        self.messages: list[ChatMessage] = []
        self.places: list[str] = []
        self._open: dict[str, None] = {}
        """Calls without a result."""
        self._caller = ""

    def say(self, message: ChatMessage, place: str) -> None:
        last = self.messages[-1] if self.messages else None
        if last is not None and last.role is message.role and message.role is not Role.TOOL:
            self.messages[-1] = _joined(last, message)
            return
        self.messages.append(message)
        self.places.append(place)

    def add(self, turn: MessageTurn, place: str) -> None:
        """Raises InvalidRequest."""
        blocks = turn.content
        if isinstance(blocks, str):
            blocks = [TextBlock(type="text", text=blocks)]
        if turn.role == "assistant":
            self.check_answered()
            self._add_answer(blocks, place)
            return
        rest: list[Part] = []
        for number, block in enumerate(blocks):
            inner = f"{place}.content[{number}]"
            if not isinstance(block, ToolResultBlock):
                rest.append(_part(block, inner))
            elif rest:
                raise invalid_value(inner, "Results of tools come before everything else.")
            else:
                self._add_result(block, inner)
        self.check_answered()
        if rest or not blocks:
            self.say(ChatMessage(_ROLES[turn.role], tuple(rest)), place)

    def check_answered(self) -> None:
        """Raises InvalidRequest."""
        if self._open:
            raise InvalidRequest(
                "'tool_use' ids were found without 'tool_result' blocks immediately after: "
                f"{', '.join(self._open)}.",
                param=self._caller,
                code="invalid_value",
            )

    def _add_answer(self, blocks: Sequence[object], place: str) -> None:
        parts: list[Part] = []
        thoughts: list[str] = []
        calls: list[ToolCall] = []
        for number, block in enumerate(blocks):
            inner = f"{place}.content[{number}]"
            match block:
                case ThinkingBlock() | RedactedThinkingBlock():
                    thoughts.append(_thought(block, inner))
                case ToolUseBlock():
                    if block.id in self._open:
                        raise invalid_value(f"{inner}.id", "It is given twice.")
                    calls.append(ToolCall(block.name, to_json(block.input).decode(), block.id))
                    self._open[block.id] = None
                    self._caller = place
                case TextBlock():
                    parts.append(TextPart(block.text))
                case _:
                    raise invalid_value(f"{inner}.type", "An assistant does not say this.")
        reasoning = "".join(thoughts) if thoughts else None
        self.say(ChatMessage(Role.ASSISTANT, tuple(parts), reasoning, tuple(calls)), place)

    def _add_result(self, block: ToolResultBlock, place: str) -> None:
        if block.tool_use_id not in self._open:
            raise invalid_value(
                f"{place}.tool_use_id",
                f"'{block.tool_use_id[:256]}' is no 'tool_use' of the turn before it that still "
                "needs a result.",
            )
        del self._open[block.tool_use_id]
        parts: list[Part] = [TextPart("Error: ")] if block.is_error else []
        if isinstance(block.content, str):
            parts.append(TextPart(block.content))
        else:
            for number, inner in enumerate(block.content or ()):
                if not isinstance(inner, TextBlock):
                    raise unsupported_value(
                        f"{place}.content[{number}].type", "Results of tools are text here."
                    )
                parts.append(TextPart(inner.text))
        message = ChatMessage(Role.TOOL, tuple(parts), tool_call_id=block.tool_use_id)
        self.say(message, place)


def read_turns(body: CountMessageTokens) -> Transcript:
    """Raises InvalidRequest."""
    transcript = Transcript()
    if isinstance(body.system, str):
        transcript.say(ChatMessage(Role.SYSTEM, (TextPart(body.system),)), "system")
    elif body.system:
        parts = tuple(TextPart(block.text) for block in body.system)
        transcript.say(ChatMessage(Role.SYSTEM, parts), "system")
    for index, turn in enumerate(body.messages):
        transcript.add(turn, f"messages[{index}]")
    transcript.check_answered()
    return transcript


def _joined(first: ChatMessage, second: ChatMessage) -> ChatMessage:
    thoughts = [each.reasoning for each in (first, second) if each.reasoning is not None]
    return msgspec.structs.replace(
        first,
        parts=first.parts + second.parts,
        reasoning="".join(thoughts) if thoughts else None,
        tool_calls=first.tool_calls + second.tool_calls,
    )


def _part(block: object, place: str) -> Part:
    match block:
        case TextBlock():
            return TextPart(block.text)
        case ImageBlock():
            source = block.source
            if isinstance(source, LinkedImage):
                url = source.url
            else:
                url = f"data:{source.media_type};base64,{source.data}"
            return MediaPart(MediaKind.IMAGE, url, place=place)
        case _:
            raise invalid_value(f"{place}.type", "Only an assistant says this.")


def _thought(block: ThinkingBlock | RedactedThinkingBlock, place: str) -> str:
    """One that came without its text is in its signature."""
    if isinstance(block, RedactedThinkingBlock):
        thought, field = open_thought(block.data), "data"
    elif block.thinking or not block.signature:
        return block.thinking
    else:
        thought, field = open_thought(block.signature), "signature"
    if thought is None:
        raise invalid_value(f"{place}.{field}", "It was not made by this server.")
    return thought
