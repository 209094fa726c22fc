"""Every known rendering of every named template: text, special tokens, segments, loss parts."""

from __future__ import annotations

import functools
import gzip
import json
from datetime import date
from pathlib import Path
from typing import Any

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
from templates.format import FormatError, Segment, TokenizerInfo
from templates.named import NamedFormat
from templates.registry import built_in_families

DATA = Path(__file__).parent / "data" / "renderings.json.gz"
BOS, EOS = "⟦bos⟧", "⟦eos⟧"
TOKENIZER = TokenizerInfo(bos_token=BOS, eos_token=EOS)


DAY = date(2024, 7, 26)
"""The day the renderings were made: Llama 3's tool text shows it."""


@pytest.fixture(autouse=True)
def day_of_the_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DIALECTS, "llama3", llama3(lambda: DAY))


@functools.cache
def facts() -> dict[str, Any]:
    return json.loads(gzip.decompress(DATA.read_bytes()))


def cases() -> list[tuple[str, str]]:
    return [(name, kind) for name, kinds in facts()["templates"].items() for kind in kinds]


def conversation_of(name: str, kind: str) -> Conversation:
    base, _, settings = kind.partition("|")
    options = options_of(settings)
    if base in facts()["conversations"]:
        given = facts()["conversations"][base]
        return build(given["messages"], given["system"], given["tools"], options)
    messages, tools = thinking_messages(base, *facts()["thought_words"][name])
    return build(messages, None, tools, options)


def options_of(settings: str) -> RenderOptions:
    if not settings:
        return RenderOptions()
    pairs = dict(pair.split("=") for pair in settings.split(","))
    return RenderOptions(
        enable_thinking=pairs["enable_thinking"] == "True",
        keep_given_thoughts=pairs["enable_thinking"] == "None",
        preserve_thinking=pairs["preserve_thinking"] == "True",
    )


def thinking_messages(base: str, start: str, end: str) -> tuple[list[dict[str, str]], str | None]:
    def said(thought: str, text: str) -> str:
        return f"{start}{thought}{end}{text}" if base != "no_cot" else text

    if base != "thinking_tool":
        return [
            {"role": "user", "content": "1+1?"},
            {"role": "assistant", "content": said("one plus one", "2")},
            {"role": "user", "content": "2+2?"},
            {"role": "assistant", "content": said("two plus two", "4")},
        ], None
    given = facts()["conversations"]["tools"]
    return [
        {"role": "user", "content": "Weather?"},
        {"role": "function", "content": said("need tool", given["messages"][1]["content"])},
        {"role": "observation", "content": "21"},
        {"role": "assistant", "content": said("got it", "21°C")},
    ], given["tools"]


def build(
    messages: list[dict[str, str]], system: str | None, tools: str | None, options: RenderOptions
) -> Conversation:
    built = [ChatMessage(Role.SYSTEM, (TextPart(system),))] if system else []
    built += [build_message(message) for message in messages]
    listed = json.loads(tools) if tools else []
    return Conversation(tuple(built), tuple(Tool(**tool) for tool in listed), options)


def build_message(message: dict[str, str]) -> ChatMessage:
    content = message["content"]
    match message["role"]:
        case "function":
            start = min(i for i in (content.find("{"), content.find("[")) if i >= 0)
            if "think" in content or "<|channel" in content:
                start = content.index('{"name"')
            calls = json.loads(content[start:])
            calls = calls if isinstance(calls, list) else [calls]
            return ChatMessage(
                Role.ASSISTANT,
                (TextPart(content[:start]),) if start else (),
                tool_calls=tuple(
                    ToolCall(c["name"], json.dumps(c["arguments"], ensure_ascii=False))
                    for c in calls
                ),
            )
        case "observation":
            return ChatMessage(Role.TOOL, (TextPart(content),))
        case role:
            return ChatMessage(Role(role), (TextPart(content),))


def text(segments: tuple[Segment, ...]) -> str:
    return "".join(segment.text for segment in segments)


def runs(segments: tuple[Segment, ...]) -> list[str]:
    """Texts of the runs, which the tokenizer sees one by one."""
    joined: list[str] = []
    for segment in segments:
        if segment.joined and joined:
            joined[-1] += segment.text
        else:
            joined.append(segment.text)
    return joined


def expected_runs(name: str, elements: list[Any]) -> list[str]:
    special = {"bos_token": BOS, "eos_token": facts()["eos"][name]}
    texts = [
        e if isinstance(e, str) else special[e["special"]] if "special" in e else e["token"]
        for e in elements
    ]
    return [t for t in texts if t]


def with_eos(name: str, rendered: str) -> str:
    return rendered.replace(EOS, facts()["eos"][name])


@pytest.mark.parametrize(("name", "kind"), cases())
def test_a_named_template_renders_as_the_facts_say(name: str, kind: str) -> None:
    expected = facts()["templates"][name][kind]
    chat_format = NamedFormat(built_in_families()[name], TOKENIZER)
    conversation = conversation_of(name, kind)
    if "error" in expected["multiturn"]:
        with pytest.raises(FormatError):
            chat_format.render_training(conversation)
        return
    turns = chat_format.render_training(conversation)
    assert [{"prompt": runs(turn.prompt), "response": runs(turn.response)} for turn in turns] == [
        {
            "prompt": expected_runs(name, turn["prompt_segments"]),
            "response": expected_runs(name, turn["response_segments"]),
        }
        for turn in expected["multiturn"]
    ]
    *history, last = chat_format.render_training(conversation, last_turn_only=True)
    before = "".join(text(turn.prompt) + text(turn.response) for turn in history)
    assert before + text(last.prompt) == with_eos(name, expected["oneturn"]["prompt"])
    assert text(last.response) == with_eos(name, expected["oneturn"]["response"])
    asked = Conversation(conversation.messages[:-1], conversation.tools, conversation.options)
    prompt = text(chat_format.render(asked).segments)
    assert prompt == with_eos(name, expected["generation_prompt"])


@pytest.mark.parametrize("name", sorted(built_in_families()))
def test_every_template_names_a_known_dialect_and_renders(name: str) -> None:
    chat_format = NamedFormat(built_in_families()[name], TOKENIZER)
    asked = Conversation((ChatMessage(Role.USER, (TextPart("Hello"),)),))
    assert "Hello" in text(chat_format.render(asked).segments)
    if name in facts()["eos"]:
        assert chat_format.appends_eos == (name in facts()["efficient"])
