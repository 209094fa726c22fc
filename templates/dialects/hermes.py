"""Qwen's dialect (Hermes): `<tool_call>` around one JSON object per call; Ling shows it alike.

Tool texts are LLaMA-Factory 0.9.5's. `<tool_call>` is an added token, but not a special one.
"""

from __future__ import annotations

from dataclasses import dataclass

from templates.conversation import Tool, ToolCall
from templates.dialects.base import Dialect, arguments_of, to_json, wrapped_declaration
from templates.dialects.constraints import Layout
from templates.dialects.json_objects import ObjectParser, ObjectSyntax

SIGNATURES = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>{tools}
</tools>
"""
_FORMAT = """
For each function call, return a json object with function name and arguments within \
<tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>"""

_SYNTAX = ObjectSyntax(begins=("<tool_call>",), ends=("</tool_call>",))
_LAYOUT = Layout(
    lambda name: f'<tool_call>\n{{"name": "{name}", "arguments": ',
    "}\n</tool_call>",
    trigger="<tool_call>",
)


def signatures(tools: tuple[Tool, ...]) -> str:
    return "".join("\n" + to_json(wrapped_declaration(tool)) for tool in tools)


@dataclass(frozen=True, slots=True)
class HermesDialect(Dialect):
    dialect_name: str = "qwen"
    before: str = "\n\n"
    after: str = ""

    @property
    def name(self) -> str:
        return self.dialect_name

    @property
    def layout(self) -> Layout:
        return _LAYOUT

    def tool_text(self, tools: tuple[Tool, ...], *, wrapped: bool = False) -> str:
        return self.before + SIGNATURES.format(tools=signatures(tools)) + _FORMAT + self.after

    def call_text(self, calls: tuple[ToolCall, ...]) -> str:
        return "\n".join(
            "<tool_call>\n"
            + to_json({"name": call.name, "arguments": arguments_of(call)})
            + "\n</tool_call>"
            for call in calls
        )

    def call_parser(self, tools: tuple[Tool, ...]) -> ObjectParser:
        return ObjectParser(tools, _SYNTAX)


QWEN = HermesDialect()
LING = HermesDialect("ling", before="", after="\ndetailed thinking off")
