"""What an answer must be like: tool calls, a schema, or a grammar of the caller's."""

from __future__ import annotations

from typing import Any

import msgspec

from server.answering.request import AnswerRequest
from server.answering.strict_schema import broken_promise
from server.answering.tool_plan import NO_TOOLS
from server.errors import InvalidRequest, invalid_value
from server.generation.sampling import Guide, check_guide
from server.generation.schema_limits import oversize
from templates.format import ChatFormat, FormatError, OutputConstraint, Prompt
from workers.contract.hello import Hello
from workers.contract.parts import Grammar, GrammarKind

SCHEMA_PARAM = "response_format"


class Constraint(msgspec.Struct, frozen=True):
    request: AnswerRequest
    chat_format: ChatFormat
    hello: Hello

    def guide(self, prompt: Prompt) -> Guide | None:
        """For the output after `prompt`. Raises InvalidRequest and FormatError."""
        tools, schema, given = self.request.tools, self.request.schema, self.request.guide
        constraint = self.chat_format.constrain(prompt, tools.tools, tools.choice, schema)
        if given is not None:
            check_guide(given, self.hello)
        if constraint is None:
            return None if given is None else self._for_content(given, prompt)
        grammar = Grammar(GrammarKind(constraint.kind), constraint.source)
        bound = Guide(grammar, tools.param if schema is None else SCHEMA_PARAM)
        check_guide(bound, self.hello)
        if given is not None:
            other = self.request.names.of(bound.param)
            raise invalid_value(given.param, f"It cannot be combined with '{other}'.")
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


def find_constraint(
    request: AnswerRequest, chat_format: ChatFormat, hello: Hello
) -> Constraint | None:
    """None where the answer may be anything."""
    if request.tools is NO_TOOLS and request.schema is None and request.guide is None:
        return None
    return Constraint(request, chat_format, hello)


def check_schema(schema: dict[str, Any], name: str, *, strict: bool, param: str) -> None:
    """Of an answer; `param` is the endpoint's own. Raises InvalidRequest."""
    problem = oversize(schema)
    if problem is None and strict:
        problem = broken_promise(schema)
    if problem is not None:
        raise InvalidRequest(
            f"Invalid schema for {param} '{name}': {problem}",
            param=param,
            code="invalid_json_schema",
        )
