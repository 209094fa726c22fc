"""GLM: GLM-4's bare `name` line and JSON, and the `<arg_key>`/`<arg_value>` marks of GLM-4.5 on.

Tool texts are LLaMA-Factory 0.9.5's; it writes GLM-4.5 calls without `</tool_call>`, models with.
"""

from __future__ import annotations

from templates.dialects.base import Call, Dialect, Tools, as_text, declaration, to_json
from templates.dialects.constraints import Layout, xml_arguments
from templates.dialects.hermes import SIGNATURES, signatures
from templates.dialects.reading import SPACE, Scan, begins_any
from templates.dialects.scanning import CallParser
from templates.dialects.xml import XmlParser, XmlSyntax

_GLM4_HEADER = (
    "你是一个名为 ChatGLM 的人工智能助手。你是基于智谱 AI 公司训练的语言模型 GLM-4 模型开发的，"
    "你的任务是针对用户的问题和要求提供适当的答复和支持。\n\n# 可用工具"
)
_GLM4_NOTE = "在调用上述函数时，请使用 Json 格式表示调用的参数。"
_MOE_FORMAT = """
For each function call, output the function name and arguments within the following XML format:
<tool_call>{function-name}
<arg_key>{arg-key-1}</arg_key>
<arg_value>{arg-value-1}</arg_value>
<arg_key>{arg-key-2}</arg_key>
<arg_value>{arg-value-2}</arg_value>
...
</tool_call>
"""


class Glm4Parser(CallParser):
    """A known tool's name on the first line, its arguments after it."""

    def _opening(self) -> Scan[None]:
        yield from self._space()
        for name in sorted(self._tools, key=len, reverse=True):
            if (yield from self._take(name)):
                if (yield from self._take("\n")):
                    yield from self._space()
                    yield from self._arguments(name)
                return

    def _begins_bare(self, held: str) -> bool:
        return begins_any(held.lstrip(SPACE), (f"{name}\n" for name in self._tools))

    def _calls(self, marker: str) -> Scan[None]:
        return
        yield


def _glm4_tools(tools: Tools) -> str:
    return _GLM4_HEADER + "".join(
        f"\n\n## {tool.name}\n\n{to_json(declaration(tool), indent=4)}\n{_GLM4_NOTE}"
        for tool in tools
    )


GLM4 = Dialect(
    name="glm4",
    show_tools=_glm4_tools,
    write_calls=lambda calls: f"{calls[0].name}\n{to_json(calls[0].arguments)}",
    read=Glm4Parser,
    layout=Layout(lambda name: f"{name}\n", "", parallel=False, named_trigger=True),
)

_MOE = XmlSyntax(
    block="<tool_call>",
    call="",
    name_ends=(),
    key="<arg_key>",
    key_end="</arg_key>",
    value="<arg_value>",
    value_end="</arg_value>",
    call_end="",
    block_end="</tool_call>",
    max_separator=2,
)


def _moe_call(call: Call, separator: str = "\n") -> str:
    shown = "".join(
        f"{separator}<arg_key>{key}</arg_key>{separator}<arg_value>{as_text(value)}</arg_value>"
        for key, value in call.arguments.items()
    )
    return f"<tool_call>{call.name}{shown}"


GLM4_MOE = Dialect(
    name="glm4_moe",
    show_tools=lambda tools: "\n\n" + SIGNATURES.format(tools=signatures(tools)) + _MOE_FORMAT,
    write_calls=lambda calls: "\n".join("\n" + _moe_call(call) for call in calls),
    write_natively=lambda calls: "\n".join(_moe_call(call) + "\n</tool_call>" for call in calls),
    read=lambda tools: XmlParser(tools, _MOE),
    layout=Layout(
        lambda name: f"<tool_call>{name}\n",
        "</tool_call>",
        trigger="<tool_call>",
        arguments=xml_arguments("glm_xml"),
    ),
)
