"""What is asked of a model, in the words of templates and the contract: endpoints translate their
bodies to it, and planning starts from it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from server.answering.tool_plan import NO_TOOLS, ToolPlan
from server.errors import ApiError
from server.generation.sampling import NOTHING_ASKED, AskedSampling, Guide
from templates.conversation import ChatMessage, MediaPart, RenderOptions

_OF_A_MESSAGE = re.compile(r"messages\[(\d+)\](?:\.tool_calls\[(\d+)\]\.function)?")


class FieldNames(msgspec.Struct, frozen=True):
    """What an endpoint calls the fields that planning and engines name in errors. They know them as
    chat does: `messages[3]`, `response_format`, `tools`, `reasoning_effort`, `max_tokens`."""

    renamed: Mapping[str, str] = {}
    """The fields that are called otherwise, by chat's name (`messages`: `input`)."""
    messages: tuple[str, ...] | None = None
    """The place of each message in the body (`input[3]`). None: chat's."""
    calls: Mapping[tuple[int, int], str] = {}
    """The place of a function call that is not within its message's, by the numbers of both."""

    def of(self, param: str) -> str:
        """The endpoint's name of what chat calls `param`."""
        if self.messages is not None:
            inner = _OF_A_MESSAGE.match(param)
            if inner is not None:
                return self._place(int(inner[1]), inner[2]) + param[inner.end() :]
        return self.renamed.get(param, param)

    def _place(self, message: int, call: str | None) -> str:
        places = self.messages or ()
        if message >= len(places):
            return self.of("messages")
        if call is None:
            return places[message]
        return self.calls.get(
            (message, int(call)), f"{places[message]}.tool_calls[{call}].function"
        )


CHAT_NAMES = FieldNames()


class AnswerRequest(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    messages: tuple[ChatMessage, ...]
    """The places of media parts are the endpoint's own."""
    tools: ToolPlan = NO_TOOLS
    tool_format: str | None = None
    """The tool-call dialect, where it is not the model's own."""
    options: RenderOptions = RenderOptions()
    """As they are asked for; planning adds the model's defaults."""
    schema: dict[str, Any] | None = None
    """JSON schema of the content."""
    guide: Guide | None = None
    """Another grammar that the content must match."""
    sampling: AskedSampling = NOTHING_ASKED
    max_tokens: int | None = None
    num_answers: int = 1
    logprobs: int | None = None
    """How many alternatives are listed with each token. None: no log probabilities."""
    stop_in_reasoning: bool = False
    """Whether stop strings end an answer inside its thinking, too."""
    cache_key: str | None = None
    """What the caller says its requests with a common prefix have in common."""
    names: FieldNames = CHAT_NAMES

    def name_error(self, error: ApiError) -> ApiError:
        """Puts the endpoint's words on an error of planning or of an engine."""
        param = error.param
        if param is None or self._is_medium(param):
            return error
        named = self.names.of(param)
        if named != param:
            error.message = error.message.replace(f"'{param}'", f"'{named}'", 1)
            error.param = named
        return error

    def _is_medium(self, place: str) -> bool:
        return any(
            isinstance(part, MediaPart) and part.place == place
            for message in self.messages
            for part in message.parts
        )
