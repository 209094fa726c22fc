"""How much a model is asked to think: switches, efforts and budgets, by name and by Jinja."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from templates.conversation import Conversation
from templates.effort import LOW_EFFORT_TOKENS
from templates.format import (
    ChatFormat,
    FormatError,
    OutputConstraint,
    ThinkingBudget,
    TokenizerInfo,
    ToolChoice,
)
from templates.jinja_format import JinjaFormat
from templates.named import NamedFormat
from templates.registry import built_in_families
from tests.templates.conversations import CONVERSATIONS, WEATHER, says, with_options

INFO = TokenizerInfo(bos_token="<s>", eos_token="</s>", special_tokens=frozenset({"<|im_end|>"}))


def named(name: str) -> ChatFormat:
    return NamedFormat(built_in_families()[name], INFO)


def jinja(source: str) -> ChatFormat:
    return JinjaFormat("jinja", {"default": source}, INFO)


def own(name: str) -> ChatFormat:
    return jinja((Path(__file__).parent / "data" / f"{name}.jinja").read_text("utf-8"))


def asked(**options: Any) -> Conversation:
    return with_options(CONVERSATIONS["single"], **options)


def text(chat_format: ChatFormat, **options: Any) -> str:
    return "".join(segment.text for segment in chat_format.render(asked(**options)).segments)


@pytest.mark.parametrize("qwen", [named("qwen3"), own("thoughts")])
def test_efforts_switch_a_family_that_thinks_or_does_not(qwen: ChatFormat) -> None:
    for effort in ("none", "minimal"):
        assert text(qwen, reasoning_effort=effort) == text(qwen, enable_thinking=False)
    for effort in ("low", "medium", "high", "xhigh", "max"):
        assert text(qwen, reasoning_effort=effort) == text(qwen, enable_thinking=True)
    low = qwen.thinking_budget(asked(reasoning_effort="low"))
    assert low == ThinkingBudget(LOW_EFFORT_TOKENS, "\n</think>\n\n")
    assert qwen.thinking_budget(asked(reasoning_effort="high")) is None
    mine = qwen.thinking_budget(asked(reasoning_effort="low", thinking_budget=7))
    assert mine is not None
    assert mine.max_tokens == 7


def test_gpt_oss_writes_its_own_efforts() -> None:
    gpt_oss, plain = named("gpt_oss"), "a large language model trained by OpenAI."
    assert f"{plain}<|end|>" in text(gpt_oss)
    for effort in ("low", "medium", "high"):
        assert f"{plain}\n\nReasoning: {effort}<|end|>" in text(gpt_oss, reasoning_effort=effort)
    assert gpt_oss.thinking_budget(asked(reasoning_effort="low")) is None
    own_system = Conversation((says("system", "Be brief."), says("user", "Hi")))
    shown = gpt_oss.render(with_options(own_system, reasoning_effort="low"))
    assert "Be brief.\n\nReasoning: low<|end|>" in "".join(s.text for s in shown.segments)
    assert text(gpt_oss, reasoning_effort="none") == text(gpt_oss, enable_thinking=False)


def test_a_template_with_channels_takes_the_efforts_its_models_know() -> None:
    channels = own("channels")
    assert "Reasoning: high<|end|>" in text(channels, reasoning_effort="high")
    for effort in ("none", "minimal", "xhigh", "max"):
        with pytest.raises(FormatError) as caught:
            text(channels, reasoning_effort=effort)
        assert caught.value.param == "reasoning_effort"
    budget = channels.thinking_budget(asked(thinking_budget=9))
    ending = "<|end|><|start|>assistant<|channel|>final<|message|>"
    assert budget == ThinkingBudget(9, ending)


@pytest.mark.parametrize("chat_format", [named("gpt_oss"), own("channels")])
def test_tools_and_a_cut_thought_do_not_go_together_in_channels(chat_format: ChatFormat) -> None:
    conversation = with_options(CONVERSATIONS["tools"], thinking_budget=9)
    with pytest.raises(FormatError) as caught:
        chat_format.thinking_budget(conversation)
    assert caught.value.param == "thinking_budget"


@pytest.mark.parametrize("chat_format", [named("qwen3"), own("thoughts"), named("gpt_oss")])
def test_a_schema_binds_the_answer_alone_after_a_cut_thought(chat_format: ChatFormat) -> None:
    budget = chat_format.thinking_budget(asked(thinking_budget=5))
    assert budget is not None
    prompt = budget.spent(chat_format.render(asked()))
    schema = {"type": "object"}
    bound = chat_format.constrain(prompt, (), ToolChoice(), schema)
    assert bound == OutputConstraint("json_schema", json.dumps(schema))
    mine = OutputConstraint("regex", "a|b")
    assert chat_format.bind_content(prompt, mine) == mine


@pytest.mark.parametrize(
    ("source", "ending"),
    [
        ("<think>{{ t }}</think>{{ c }}", "</think>"),
        ("<think>\n{{ t }}\n</think>\n{{ c }}", "\n</think>\n"),
        ("[THINK]{{ t }}[/THINK]{{ c }}", "[/THINK]"),
    ],
)
def test_the_ending_of_a_thought_is_as_the_template_writes_it(source: str, ending: str) -> None:
    body = source.replace("{{ t }}", "{{ m.reasoning_content }}").replace(
        "{{ c }}", "{{ m.content }}"
    )
    body = source.replace("t }}", "m.reasoning_content }}").replace("c }}", "m.content }}")
    asks = "{% if m.role == 'user' %}U{{ m.content }}A"
    template = "{% for m in messages %}" + asks + "{% else %}" + body + "{% endif %}{% endfor %}"
    budget = jinja(template).thinking_budget(asked(thinking_budget=5))
    assert budget == ThinkingBudget(5, ending)


@pytest.mark.parametrize("chat_format", [named("chatml"), own("headers")])
def test_no_budget_where_there_is_no_thinking(chat_format: ChatFormat) -> None:
    with pytest.raises(FormatError) as caught:
        chat_format.thinking_budget(asked(thinking_budget=5))
    assert caught.value.param == "thinking_budget"
    assert chat_format.thinking_budget(asked()) is None


def test_a_template_that_knows_budgets_is_told_them() -> None:
    template = "{{ thinking_budget }}<think></think>{{ messages[0].content }}"
    assert text(jinja(template), thinking_budget=64).startswith("64")


def test_thoughts_of_earlier_turns_can_be_kept() -> None:
    messages = (
        says("user", "1+1?"),
        says("assistant", "2", reasoning="one and one"),
        says("user", "And 2+2?"),
    )
    conversation = Conversation(messages, (WEATHER,))
    qwen = named("qwen3")
    for kept in (False, True):
        shown = qwen.render(with_options(conversation, preserve_thinking=kept))
        assert ("one and one" in "".join(s.text for s in shown.segments)) is kept
