"""What a chat answer must be like: tool calls, a response format, or a grammar of the caller's."""

from __future__ import annotations

from typing import Any

import msgspec

from server.chat.schemas import (
    ChatCompletionRequest,
    JsonObjectFormat,
    JsonSchema,
    JsonSchemaFormat,
)
from server.chat.strict_schema import broken_promise
from server.chat.tools import ToolPlan
from server.errors import InvalidRequest, invalid_value
from server.generation.sampling import Guide, check_guide, plan_guide
from server.generation.schema_limits import oversize
from templates.format import ChatFormat, FormatError, OutputConstraint, Prompt
from workers.contract.hello import Hello
from workers.contract.parts import Grammar, GrammarKind


class Constraint(msgspec.Struct, frozen=True):
    request: ChatCompletionRequest
    chat_format: ChatFormat
    tools: ToolPlan
    schema: dict[str, Any] | None
    hello: Hello

    def guide(self, prompt: Prompt) -> Guide | None:
        """For the output after `prompt`. Raises InvalidRequest and FormatError."""
        tools = self.tools
        constraint = self.chat_format.constrain(prompt, tools.tools, tools.choice, self.schema)
        given = plan_guide(self.request, self.hello)
        if constraint is None:
            return None if given is None else self._for_content(given, prompt)
        grammar = Grammar(GrammarKind(constraint.kind), constraint.source)
        bound = Guide(grammar, _guide_param(self.request, tools))
        check_guide(bound, self.hello)
        if given is not None:
            raise invalid_value(given.param, f"It cannot be combined with '{bound.param}'.")
        return bound

    def _for_content(self, guide: Guide, prompt: Prompt) -> Guide:
        """The caller's grammar binds the answer, not the thinking before it."""
        given = OutputConstraint(guide.grammar.kind, guide.grammar.source)
        try:
            bound = self.chat_format.bind_content(prompt, given)
        except FormatError as error:
            raise invalid_value(guide.param, str(error)) from error
        if bound == given:
            return guide
        guide = Guide(Grammar(GrammarKind(bound.kind), bound.source), guide.param)
        check_guide(guide, self.hello)
        return guide


def asked_schema(request: ChatCompletionRequest) -> dict[str, Any] | None:
    """Of `response_format`. Raises InvalidRequest. A `json_object` may be asked for without the
    word JSON in the messages, which OpenAI wants: the grammar makes the answer one."""
    wanted = request.response_format
    if isinstance(wanted, JsonSchemaFormat):
        return _checked(wanted.json_schema)
    if isinstance(wanted, JsonObjectFormat):
        return {"type": "object"}
    return None


def _checked(wanted: JsonSchema) -> dict[str, Any]:
    problem = oversize(wanted.schema_)
    if problem is None and wanted.strict:
        problem = broken_promise(wanted.schema_)
    if problem is not None:
        raise InvalidRequest(
            f"Invalid schema for response_format '{wanted.name}': {problem}",
            param="response_format",
            code="invalid_json_schema",
        )
    return wanted.schema_


def _guide_param(request: ChatCompletionRequest, tools: ToolPlan) -> str:
    if request.response_format is not None and request.response_format.type != "text":
        return "response_format"
    if tools.legacy:
        return "function_call"
    if request.tool_choice is not None:
        return "tool_choice"
    return "parallel_tool_calls" if request.parallel_tool_calls is False else "tools"
