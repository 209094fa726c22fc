"""All named templates against a second renderer made from the published slots alone."""

from __future__ import annotations

import itertools
import json

import pytest

from templates.conversation import (
    ChatMessage,
    Conversation,
    RenderOptions,
    Role,
    TextPart,
    Tool,
    ToolCall,
)
from templates.dialects import DIALECTS
from templates.dialects.llama import llama3
from templates.format import TokenizerInfo
from templates.named import NamedFormat
from templates.registry import built_in_families
from tests.templates.slots import BOS, EOS, SlotTemplate, slots, tool_facts
from tests.templates.test_renderings import DAY, runs, text

TOKENIZER = TokenizerInfo(bos_token=BOS, eos_token=EOS)
TOOLS = tuple(Tool(**tool) for tool in tool_facts()["sample_tools"])
CALLS = tuple(
    ToolCall(call["name"], json.dumps(call["arguments"], ensure_ascii=False))
    for call in tool_facts()["sample_calls"]
)
NUM_TOOLS = {"one_tool": 1, "two_tools": 2}
NUM_CALLS = {"one_call": 1, "two_calls": 2}
ROLES = {
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
    "function": Role.ASSISTANT,
    "observation": Role.TOOL,
}
DIALOGUES: dict[str, tuple[str, str | None, list[tuple[str, str]]]] = {
    "single": ("", None, [("user", "How are you"), ("assistant", "Fine!")]),
    "three turns": (
        "You are a test bot.",
        None,
        [
            ("user", "1+1?"),
            ("assistant", "THOUGHT(one plus one)2"),
            ("user", "你好"),
            ("assistant", "\n很高兴"),
            ("user", "2+2?"),
            ("assistant", "THOUGHT(two plus two)4"),
        ],
    ),
    "tools": (
        "You are a test bot.",
        "one_tool",
        [
            ("user", "What is the weather?"),
            ("function", "one_call"),
            ("observation", '{"temp": 21}'),
            ("assistant", "THOUGHT(it is warm)It is 21°C."),
        ],
    ),
    "tools, default system": (
        "",
        "two_tools",
        [
            ("user", "What is the weather?"),
            ("function", "THOUGHT(both at once)two_calls"),
            ("observation", "[21, 3.5]"),
            ("assistant", "Warm."),
            ("user", "And now?"),
            ("function", "one_call"),
        ],
    ),
}
"""System text, tools, messages; `THOUGHT(...)` stands for a thought in the family's words."""
THINKING = tuple(itertools.product((True, None, False), (False, True)))
"""`enable_thinking` and `preserve_thinking` of LLaMA-Factory."""


@pytest.fixture(autouse=True)
def day_of_the_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DIALECTS, "llama3", llama3(lambda: DAY))


def in_words(name: str, content: str) -> str:
    opening, closing = slots()[name]["thought_words"]
    return content.replace("THOUGHT(", opening).replace(")", closing, content.count("THOUGHT("))


def ours(role: str, content: str, closing: str) -> ChatMessage:
    if role != "function":
        return ChatMessage(ROLES[role], (TextPart(content),))
    thought, mark, calls = content.rpartition(closing)
    parts = (TextPart(f"{thought}{mark}"),) if thought else ()
    return ChatMessage(Role.ASSISTANT, parts, tool_calls=CALLS[: NUM_CALLS[calls]])


def options_of(name: str, enable: bool | None, preserve: bool) -> RenderOptions:
    if "Reasoning" not in slots()[name]["template_class"]:
        return RenderOptions()
    return RenderOptions(
        enable_thinking=enable is True,
        keep_given_thoughts=enable is None,
        preserve_thinking=preserve,
    )


@pytest.mark.parametrize("shape", DIALOGUES)
@pytest.mark.parametrize("name", slots())
def test_a_named_template_follows_its_slots(name: str, shape: str) -> None:
    if slots()[name]["function_format"] == "glm4" and "two_calls" in str(DIALOGUES[shape]):
        pytest.skip("this dialect writes one call at a time")
    reasons = "Reasoning" in slots()[name]["template_class"]
    for enable, preserve in THINKING if reasons else THINKING[:1]:
        compare(name, shape, enable, preserve)


def compare(name: str, shape: str, enable: bool | None, preserve: bool) -> None:
    system, tools, dialogue = DIALOGUES[shape]
    messages = [(role, in_words(name, content)) for role, content in dialogue]
    reference = SlotTemplate(name)
    told = [ChatMessage(Role.SYSTEM, (TextPart(system),))] if system else []
    closing = slots()[name]["thought_words"][1]
    conversation = Conversation(
        (*told, *(ours(role, content, closing) for role, content in messages)),
        TOOLS[: NUM_TOOLS[tools]] if tools else (),
        options_of(name, enable, preserve),
    )
    chat_format = NamedFormat(built_in_families()[name], TOKENIZER)

    turns = chat_format.render_training(conversation)
    assert [(runs(turn.prompt), runs(turn.response)) for turn in turns] == reference.turns(
        messages, system, tools, enable
    )
    expected_prompt, expected_response = reference.one_turn(
        messages, system, tools, enable, preserve
    )
    *history, last = chat_format.render_training(conversation, last_turn_only=True)
    before = [*(run for turn in history for run in (*runs(turn.prompt), *runs(turn.response)))]
    assert "".join([*before, *runs(last.prompt)]) == "".join(expected_prompt)
    assert runs(last.response) == expected_response

    asked = Conversation(conversation.messages[:-1], conversation.tools, conversation.options)
    silent = [*messages[:-1], (messages[-1][0].replace("function", "assistant"), "")]
    prompt, _ = reference.one_turn(silent, system, tools, enable, preserve)
    assert text(chat_format.render(asked).segments) == "".join(prompt)


@pytest.mark.parametrize("name", slots())
def test_a_named_template_ends_answers_as_its_facts_say(name: str) -> None:
    facts = slots()[name]
    chat_format = NamedFormat(built_in_families()[name], TOKENIZER)
    assert set(chat_format.stop_words) == set(facts["stop_words"])
    assert chat_format.appends_eos is facts["efficient_eos"]
