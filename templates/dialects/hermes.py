"""Qwen's dialect (Hermes): `<tool_call>` around one JSON object per call; Ling shows it alike.

Tool texts are LLaMA-Factory 0.9.5's. `<tool_call>` is an added token, but not a special one.
"""

from __future__ import annotations

from templates.dialects.base import Call, Dialect, Tools, to_json, wrapped_declaration
from templates.dialects.call_lists import ListSyntax
from templates.dialects.constraints import Layout
from templates.dialects.json_objects import ObjectParser, named_object

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

_SYNTAX = ListSyntax(begins=("<tool_call>",), ends=("</tool_call>",))
_LAYOUT = Layout(
    lambda name: f'<tool_call>\n{{"name": "{name}", "arguments": ',
    "}\n</tool_call>",
    trigger="<tool_call>",
)


def signatures(tools: Tools) -> str:
    return "".join("\n" + to_json(wrapped_declaration(tool)) for tool in tools)


def _dialect(name: str, before: str, after: str) -> Dialect:
    return Dialect(
        name=name,
        show_tools=lambda tools: (
            before + SIGNATURES.format(tools=signatures(tools)) + _FORMAT + after
        ),
        write_calls=_write,
        read=lambda tools: ObjectParser(tools, _SYNTAX),
        layout=_LAYOUT,
    )


def _write(calls: list[Call]) -> str:
    return "\n".join(f"<tool_call>\n{named_object(call)}\n</tool_call>" for call in calls)


QWEN = _dialect("qwen", before="\n\n", after="")
LING = _dialect("ling", before="", after="\ndetailed thinking off")
