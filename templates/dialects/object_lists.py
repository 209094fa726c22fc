"""Dialects that write calls as JSON objects under one mark: MiniMax-M1, Hunyuan, Nemotron Nano 2,
Granite 3, InternLM 2.5 and 3, Phi-4-mini, Cohere Command.

MiniMax-M1's tool text is LLaMA-Factory 0.9.5's; the others show tools as a JSON list, as their own
templates do inside their role marks.
"""

from __future__ import annotations

from templates.dialects.base import Call, Dialect, Tools, declaration, to_json, wrapped_list
from templates.dialects.call_lists import ListSyntax
from templates.dialects.constraints import Layout, json_arguments
from templates.dialects.json_objects import ObjectParser, named_object
from templates.dialects.reading import Scan

_M1_HEADER = "You are provided with these tools:\n<tools>\n"
_M1_FOOTER = """</tools>

If you need to call tools, please respond with <tool_calls></tool_calls> XML tags, and provide \
tool-name and json-object of arguments, following the format below:
<tool_calls>
{"name": <tool-name-1>, "arguments": <args-json-object-1>}
...
</tool_calls>"""


def _begin(name: str) -> str:
    return f'{{"name": "{name}", "arguments": '


def _m1_tools(tools: Tools) -> str:
    return _M1_HEADER + "".join(to_json(declaration(t)) + "\n" for t in tools) + _M1_FOOTER


def _m1_calls(calls: list[Call]) -> str:
    return "<tool_calls>\n" + "\n".join(map(named_object, calls)) + "\n</tool_calls>"


MINIMAX1 = Dialect(
    name="minimax1",
    show_tools=_m1_tools,
    write_calls=_m1_calls,
    read=lambda tools: ObjectParser(tools, ListSyntax(("<tool_calls>",), ("</tool_calls>",))),
    layout=Layout(
        _begin, "}", trigger="<tool_calls>", opening="<tool_calls>\n", closing="\n</tool_calls>"
    ),
)


def _listed(name: str, begins: tuple[str, ...], end: str, *, special: bool) -> Dialect:
    """A JSON list of calls between the first of `begins` and `end`."""
    syntax = ListSyntax(begins, (end,) if end else ())

    def write(calls: list[Call]) -> str:
        return f"{begins[0]}[{', '.join(map(named_object, calls))}]{end}"

    return Dialect(
        name=name,
        show_tools=wrapped_list,
        write_calls=write,
        read=lambda tools: ObjectParser(tools, syntax),
        layout=Layout(
            _begin,
            "}",
            trigger=begins[0],
            opening=f"{begins[0]}[",
            separator=", ",
            closing=f"]{end}",
        ),
        keeps_special_tokens=special,
    )


HUNYUAN = _listed("hunyuan", ("<tool_calls>",), "</tool_calls>", special=False)
NEMOTRON = _listed("nemotron", ("<TOOLCALL>",), "</TOOLCALL>", special=False)
GRANITE3 = _listed("granite3", ("<|tool_call|>", "<tool_call>"), "", special=True)
PHI4 = _listed("phi4", ("<|tool_call|>", "functools"), "<|/tool_call|>", special=True)

_ACTION = "<|action_start|><|plugin|>"

INTERNLM = Dialect(
    name="internlm",
    show_tools=lambda tools: to_json([declaration(tool) for tool in tools]),
    write_calls=lambda calls: "\n".join(
        f"{_ACTION}\n{named_object(call, 'parameters')}\n<|action_end|>" for call in calls
    ),
    read=lambda tools: ObjectParser(
        tools, ListSyntax((_ACTION, "<|action_start|> <|plugin|>"), ("<|action_end|>",))
    ),
    layout=Layout(
        lambda name: f'{_ACTION}\n{{"name": "{name}", "parameters": ',
        "}\n<|action_end|>",
        trigger=_ACTION,
    ),
    keeps_special_tokens=True,
)


def _cohere_calls(calls: list[Call]) -> str:
    written = [
        to_json({"tool_call_id": str(n), "tool_name": call.name, "parameters": call.arguments})
        for n, call in enumerate(calls)
    ]
    return f"<|START_ACTION|>[{', '.join(written)}]<|END_ACTION|>"


_ACTION_START, _ACTION_END = "<|START_ACTION|>", "<|END_ACTION|>"
_ANSWER_MARKS = ("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>")


class CohereParser(ObjectParser):
    """Plain answers have marks too, which are not part of them."""

    def __init__(self, tools: Tools) -> None:
        super().__init__(tools, ListSyntax((_ACTION_START, *_ANSWER_MARKS), (_ACTION_END,)))

    def _calls(self, marker: str) -> Scan[None]:
        if marker in _ANSWER_MARKS:
            self._mark, self._given_back = None, 0
        elif self._tools:
            yield from self._block()


COHERE = Dialect(
    name="cohere_command",
    show_tools=wrapped_list,
    write_calls=_cohere_calls,
    read=CohereParser,
    reads_marks=True,
    layout=Layout(
        lambda name: '{"tool_call_id": "',
        "}",
        arguments=lambda name, schema: [
            {"type": "regex", "pattern": "[0-9]{1,3}"},
            {"type": "const_string", "value": f'", "tool_name": "{name}", "parameters": '},
            *json_arguments(name, schema),
        ],
        trigger="<|START_ACTION|>",
        opening="<|START_ACTION|>[",
        separator=", ",
        closing="]<|END_ACTION|>",
    ),
    keeps_special_tokens=True,
)
