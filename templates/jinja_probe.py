"""What a chat template expects and writes, found by rendering small conversations with it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

from msgspec.structs import replace as replace_struct

from templates.conversation import ChatMessage, Conversation, Role, TextPart, Tool, ToolCall
from templates.dialects import DIALECTS, detect, marked_in
from templates.dialects.base import Dialect
from templates.format import (
    FormatError,
    OutputParser,
)
from templates.jinja_messages import MessageStyle

Render = Callable[[Conversation, MessageStyle, bool], str]

ASKED = "tuneyardasks"
THOUGHT = "tuneyardthinks"
ANSWERED = "tuneyardanswers"
PLAIN_DIALECT = "default"
_CITY = "tuneyardville"
_ARGUMENTS = {"city": _CITY, "days": 2}
_TOOL = Tool(
    name="get_weather",
    description="Get the weather",
    parameters={
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "The city"},
            "days": {"type": "integer", "description": "How many days"},
        },
        "required": ["city"],
    },
)
_CALL = ToolCall("get_weather", json.dumps(_ARGUMENTS), id="call12345")
_TELLING_ID = "functions.get_weather:0"
"""Kimi's templates write a call's id and no name."""


def _says(role: Role, text: str) -> ChatMessage:
    return ChatMessage(role, (TextPart(text),))


_ASK = _says(Role.USER, ASKED)


def _asked_and_called(call: ToolCall) -> tuple[ChatMessage, ...]:
    return (_ASK, ChatMessage(Role.ASSISTANT, tool_calls=(call,)))


class Probe:
    """Answers are kept; each costs a few renderings, once."""

    def __init__(
        self, render: Render, variables: frozenset[str], *, source: str, words: frozenset[str]
    ) -> None:
        """`source` is the template's, `words` are the tokenizer's control words."""
        self._render = render
        self._variables = variables
        self._source = source
        self._words = words

    @cached_property
    def style(self) -> MessageStyle:
        style = MessageStyle()
        if ASKED not in self._try((_ASK,), style) and ASKED in self._try(
            (_ASK,), replace(style, content_parts=True)
        ):
            style = replace(style, content_parts=True)
        developer = _says(Role.DEVELOPER, "tuneyarddevelops")
        as_developer = replace(style, developer_role=True)
        if "tuneyarddevelops" in self._try((developer, _ASK), as_developer) and (
            "developer" in self._try((developer, _ASK), as_developer)
        ):
            style = as_developer
        style = replace(style, arguments_text=self._wants_arguments_text(style))
        return replace(style, short_ids=self._wants_short_ids(style))

    def _wants_short_ids(self, style: MessageStyle) -> bool:
        long = _asked_and_called(replace_struct(_CALL, id="call_" + "a1" * 12))
        return not self._try(long, style, tools=True) and bool(
            self._try(self._call_messages, style, tools=True)
        )

    def _wants_arguments_text(self, style: MessageStyle) -> bool:
        """An object is what most templates want; a few write Python's form of it, or fail."""
        as_object = self._try(self._call_messages, style, tools=True)
        if _CITY in as_object and f"'{_CITY}'" not in as_object:
            return False
        as_text = self._try(self._call_messages, replace(style, arguments_text=True), tools=True)
        return _CITY in as_text

    @property
    def _call_messages(self) -> tuple[ChatMessage, ...]:
        return _asked_and_called(_CALL)

    @cached_property
    def dialect(self) -> Dialect | None:
        """By a call that the template wrote. One that writes no calls (Granite 3, LFM2) is taken at
        its word: the mark that it tells the model of, or that its vocabulary has for calls."""
        if "tools" not in self._variables:
            return None
        for call in (_CALL, replace_struct(_CALL, id=_TELLING_ID)):
            full = self._try(_asked_and_called(call), self.style, tools=True)
            found = detect(self._written(full), _TOOL.name, _ARGUMENTS)
            if found is not None:
                return found
            if full and _CITY not in full:
                return marked_in(self._source) or marked_in(self._words)
        return None

    def _written(self, full: str) -> str:
        """What stands in `full` after the prompt."""
        prompt = self._try((_ASK,), self.style, tools=True, generate=True)
        written = full[len(prompt) :] if full.startswith(prompt) else full[full.rfind(ASKED) :]
        return re.sub(r"^.*</think>\s*", "", written, flags=re.DOTALL)

    @property
    def plain_dialect(self) -> Dialect:
        """For output without tool calls."""
        return DIALECTS[PLAIN_DIALECT]

    @cached_property
    def thought_ending(self) -> str | None:
        """What the template writes between the thought of an answer and its text."""
        answer = _says(Role.ASSISTANT, ANSWERED)
        text = self._try((_ASK, replace_struct(answer, reasoning=THOUGHT)), self.style)
        _, found, after = text.rpartition(THOUGHT)
        ending, answered, _ = after.partition(ANSWERED)
        return ending if found and answered and ending.strip() else None

    def end_words(self, control_words: frozenset[str]) -> tuple[str, ...]:
        text = self._try((_ASK, _says(Role.ASSISTANT, ANSWERED)), self.style)
        rest = text[text.rfind(ANSWERED) + len(ANSWERED) :] if ANSWERED in text else ""
        rest = rest.lstrip()
        ends = [word for word in control_words if rest.startswith(word)]
        return (max(ends, key=len),) if ends else ()

    def _try(
        self,
        messages: tuple[ChatMessage, ...],
        style: MessageStyle,
        tools: bool = False,
        generate: bool = False,
    ) -> str:
        conversation = Conversation(messages, (_TOOL,) if tools else ())
        try:
            return self._render(conversation, style, generate)
        except FormatError:
            return ""


def content_only_parser() -> OutputParser:
    return DIALECTS[PLAIN_DIALECT].parser(())
