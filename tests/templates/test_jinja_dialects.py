"""Which tool-call dialect a model's own template speaks."""

from __future__ import annotations

import pytest

from templates.conversation import ChatMessage, Conversation, Role, ToolCall
from templates.format import TokenizerInfo
from templates.jinja_format import JinjaFormat
from templates.registry import open_format
from tests.templates.conversations import ASKS, WEATHER, says

CALLS_BY_ID = """
{%- for m in messages %}{{ m.role }}: {{ m.content }}
{%- for c in m.tool_calls or [] -%}
<|tool_calls_section_begin|><|tool_call_begin|>{{ c.id }}<|tool_call_argument_begin|>
{{- c.function.arguments | tojson }}<|tool_call_end|><|tool_calls_section_end|>
{%- endfor %}<|im_end|>{% endfor %}{{ tools | length }}
"""
EMPTY_MARKS = """
{%- for m in messages %}{{ m.role }}: {{ m.content }}
{%- for c in m.tool_calls or [] -%}
<|python_start|><|python_end|>{"name": "{{ c.function.name }}", "parameters": {# -#}
{{ c.function.arguments | tojson }}}
{%- endfor %}<|eot|>{% endfor %}{{ tools | length }}
"""
DEEPSEEK = """
{%- for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] -%}
<｜DSML｜tool_calls>
<｜DSML｜invoke name="{{ c.function.name }}">
{% for key, value in c.function.arguments.items() %}
<｜DSML｜parameter name="{{ key }}" string="{{ (value is string) | tojson }}">{{ value -}}
</｜DSML｜parameter>
{% endfor %}</｜DSML｜invoke>
</｜DSML｜tool_calls>{% endfor %}{% endfor %}{{ tools | length }}
"""
NO_CALLS = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}{{ tools | length }}"
TOLD_OF = NO_CALLS + " Answer with <|tool_call|> and a JSON list."
DESCRIBED = """
{%- for t in tools or [] %}{% for p in t.function.parameters.properties.values() -%}
{{ p.description.upper() }}{% endfor %}{% endfor %}
{%- for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] -%}
<TOOLCALL>[{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}]
{#- #}</TOOLCALL>{% endfor %}{% endfor %}
"""


@pytest.mark.parametrize(
    ("source", "words", "name"),
    [
        (CALLS_BY_ID, (), "kimi_k2"),
        (EMPTY_MARKS, (), "llama3"),
        (DESCRIBED, (), "nemotron"),
        (DEEPSEEK, (), "deepseek_v4"),
        (TOLD_OF, (), "granite3"),
        (NO_CALLS, ("<|tool_call_start|>",), "lfm2"),
        (NO_CALLS, (), None),
    ],
)
def test_a_dialect_is_found_by_what_the_template_writes_or_names(
    source: str, words: tuple[str, ...], name: str | None
) -> None:
    info = TokenizerInfo(special_tokens=frozenset(words), chat_templates={"default": source})
    chat_format = open_format(None, info)
    assert isinstance(chat_format, JinjaFormat)
    assert (chat_format.dialect.name if chat_format.dialect else None) == name


NINE = """
{%- macro check(id) %}{% if id | length != 9 %}{{ raise_exception("nine!") }}{% endif -%}
{{ id }},{% endmacro -%}
{%- for m in messages %}{% for c in m.tool_calls or [] %}{{ check(c.id) }}{% endfor -%}
{% if m.role == "tool" %}{{ check(m.tool_call_id) }}{% endif %}{% endfor %}{{ tools and "" }}"""


@pytest.mark.parametrize("given", ["call_" + "x" * 24, "functions.get_weather:0", "aB3dE6gH9"])
def test_ids_of_calls_are_short_where_the_template_asks_for_it(given: str) -> None:
    chat_format = open_format(None, TokenizerInfo(chat_templates={"default": NINE}))
    call = ChatMessage(Role.ASSISTANT, tool_calls=(ToolCall("get_weather", "{}", id=given),))
    result = says("tool", "21", tool_call_id=given)
    prompt = chat_format.render(Conversation((ASKS, call, result), (WEATHER,)))
    called, answered, _ = "".join(s.text for s in prompt.segments).split(",")
    assert called == answered
    assert len(called) == 9
    assert called == given or len(given) != 9
