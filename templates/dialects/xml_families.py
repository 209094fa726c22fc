"""Dialects of XML-like marks: Qwen3-Coder and Qwen3.5, Seed-OSS, MiniMax-M2, DeepSeek V3.2.

Tool texts are LLaMA-Factory 0.9.5's where it knows the dialect. It writes MiniMax-M2's calls
without the block around them and Seed-OSS's with `<function=name` left open; both are read, as is
what the models write.
"""

from __future__ import annotations

from templates.dialects.base import (
    Call,
    Dialect,
    Tools,
    as_text,
    declaration,
    to_json,
    wrapped_declaration,
)
from templates.dialects.constraints import Layout, xml_arguments
from templates.dialects.xml import XmlParser, XmlSyntax

_QWEN_HEADER = "\n\n# Tools\n\nYou have access to the following functions:\n\n<tools>"
_QWEN_FOOTER = """
</tools>

If you choose to call a function ONLY reply in the following format with NO suffix:

<tool_call>
<function=example_function_name>
<parameter=example_parameter_1>
value_1
</parameter>
<parameter=example_parameter_2>
This is the value for the second parameter
that can span
multiple lines
</parameter>
</function>
</tool_call>

<IMPORTANT>
Reminder:
- Function calls MUST follow the specified format: an inner <function=...></function> block must \
be nested within <tool_call></tool_call> XML tags
- Required parameters MUST be specified
- You may provide optional reasoning for your function call in natural language BEFORE the \
function call, but NOT after
- If there is no function call available, answer the question like normal with your current \
knowledge and do not tell the user about function calls
</IMPORTANT>"""
_SEED_HEADER = """system
You are Doubao, a helpful AI assistant. You may call one or more functions to assist with the \
user query.Tool List:
You are authorized to use the following tools (described in JSON Schema format). Before performing \
any task, you must decide how to call them based on the descriptions and parameters of these tools.
"""
_SEED_FOOTER = """
工具调用请遵循如下格式:
<seed:tool_call>
<function=example_function_name>
<parameter=example_parameter_1>value_1</parameter>
<parameter=example_parameter_2>This is the value for the second parameter
that can span
multiple lines</parameter>
</function>
</seed:tool_call>
"""
_M2_HEADER = """

# Tools

You may call one or more tools to assist with the user query.
Here are the tools available in JSONSchema format:

<tools>
"""
_M2_FOOTER = """</tools>

When making tool calls, use XML format to invoke tools and pass parameters:

<minimax:tool_call>
<invoke name="tool-name-1">
<parameter name="param-key-1">param-value-1</parameter>
<parameter name="param-key-2">param-value-2</parameter>
...
</invoke>
</minimax:tool_call>"""


_QWEN = XmlSyntax(
    block="<tool_call>",
    call="<function=",
    name_ends=(">",),
    key="<parameter=",
    key_end=">",
    value_end="</parameter>",
    call_end="</function>",
    block_end="</tool_call>",
    padded=True,
)


def _qwen_tools(tools: Tools) -> str:
    return _QWEN_HEADER + "".join("\n" + to_json(declaration(t)) for t in tools) + _QWEN_FOOTER


def _qwen_calls(calls: list[Call]) -> str:
    return "\n".join(_qwen_call(call) for call in calls)


def _qwen_call(call: Call) -> str:
    shown = "".join(
        f"\n<parameter={key}>\n{as_text(value)}\n</parameter>"
        for key, value in call.arguments.items()
    )
    return f"<tool_call>\n<function={call.name}>{shown}\n</function>\n</tool_call>"


QWEN3_5 = Dialect(
    name="qwen3_5",
    show_tools=_qwen_tools,
    write_calls=_qwen_calls,
    read=lambda tools: XmlParser(tools, _QWEN),
    layout=Layout(
        lambda name: f"<tool_call>\n<function={name}>\n",
        "</function>\n</tool_call>",
        trigger="<tool_call>",
        arguments=xml_arguments("qwen_xml"),
    ),
)

_SEED = XmlSyntax(
    block="<seed:tool_call>",
    call="<function=",
    name_ends=(">", "\n"),
    key="<parameter=",
    key_end=">",
    value_end="</parameter>",
    call_end="</function>",
    block_end="</seed:tool_call>",
    max_separator=2,
)


def _seed_calls(calls: list[Call], name_end: str = "") -> str:
    return "\n".join(_seed_call(call, name_end) for call in calls)


def _seed_call(call: Call, name_end: str) -> str:
    shown = "".join(
        f"\n<parameter={key}>{as_text(value)}</parameter>" for key, value in call.arguments.items()
    )
    function = f"<function={call.name}{name_end}{shown}\n</function>"
    return f"\n<seed:tool_call>\n{function}\n</seed:tool_call>"


def _seed_tools(shown: str) -> str:
    return _SEED_HEADER + shown + _SEED_FOOTER


SEED_OSS = Dialect(
    name="seed_oss",
    show_tools=lambda tools: _seed_tools(to_json([declaration(t) for t in tools])),
    show_wrapped=lambda tools: _seed_tools(to_json([wrapped_declaration(t) for t in tools])),
    write_calls=_seed_calls,
    write_natively=lambda calls: _seed_calls(calls, ">").lstrip("\n"),
    read=lambda tools: XmlParser(tools, _SEED),
    layout=Layout(
        lambda name: f"<seed:tool_call>\n<function={name}>\n",
        "</function>\n</seed:tool_call>",
        trigger="<seed:tool_call>",
        separator="\n\n",
        arguments=xml_arguments("qwen_xml"),
    ),
    keeps_special_tokens=True,
)

_M2 = XmlSyntax(
    block="<minimax:tool_call>",
    call='<invoke name="',
    name_ends=('">',),
    key='<parameter name="',
    key_end='">',
    value_end="</parameter>",
    call_end="</invoke>",
    block_end="</minimax:tool_call>",
)


def _m2_tools(tools: Tools) -> str:
    shown = "".join(f"<tool>{to_json(declaration(tool))}</tool>\n" for tool in tools)
    return _M2_HEADER + shown + _M2_FOOTER


def _m2_calls(calls: list[Call]) -> str:
    return "\n".join(_m2_call(call) for call in calls)


def _m2_call(call: Call) -> str:
    shown = "".join(
        f'\n<parameter name="{key}">{as_text(value)}</parameter>'
        for key, value in call.arguments.items()
    )
    return f'<invoke name="{call.name}">{shown}\n</invoke>'


MINIMAX2 = Dialect(
    name="minimax2",
    show_tools=_m2_tools,
    write_calls=_m2_calls,
    write_natively=lambda calls: f"<minimax:tool_call>\n{_m2_calls(calls)}\n</minimax:tool_call>",
    read=lambda tools: XmlParser(tools, _M2),
    layout=Layout(
        lambda name: f'<invoke name="{name}">\n',
        "</invoke>\n",
        trigger="<minimax:tool_call>",
        opening="<minimax:tool_call>\n",
        separator="",
        closing="</minimax:tool_call>",
        arguments=xml_arguments("minimax_xml"),
    ),
)


def _dsml_call(call: Call) -> str:
    shown = "".join(
        f'<｜DSML｜parameter name="{key}" string="{str(isinstance(value, str)).lower()}">'
        f"{as_text(value)}</｜DSML｜parameter>\n"
        for key, value in call.arguments.items()
    )
    return f'<｜DSML｜invoke name="{call.name}">\n{shown}</｜DSML｜invoke>\n'


def _dsml(name: str, block: str) -> Dialect:
    """DeepSeek's markup; its versions differ in the name of the block."""
    begin, end = f"<｜DSML｜{block}>", f"</｜DSML｜{block}>"
    syntax = XmlSyntax(
        block=begin,
        call='<｜DSML｜invoke name="',
        name_ends=('">',),
        key='<｜DSML｜parameter name="',
        key_end='">',
        value_end="</｜DSML｜parameter>",
        call_end="</｜DSML｜invoke>",
        block_end=end,
        typed_keys=True,
    )
    return Dialect(
        name=name,
        show_tools=lambda tools: "\n".join(to_json(declaration(tool)) for tool in tools),
        write_calls=lambda calls: f"{begin}\n{''.join(map(_dsml_call, calls))}{end}",
        read=lambda tools: XmlParser(tools, syntax),
        layout=Layout(
            lambda name: f'<｜DSML｜invoke name="{name}">\n',
            "</｜DSML｜invoke>\n",
            trigger=begin,
            opening=f"{begin}\n",
            separator="",
            closing=end,
            arguments=xml_arguments("deepseek_xml"),
        ),
        keeps_special_tokens=True,
    )


DEEPSEEK_V3_2 = _dsml("deepseek_v3_2", "function_calls")
DEEPSEEK_V4 = _dsml("deepseek_v4", "tool_calls")
