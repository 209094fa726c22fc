"""A conversation renders in time that grows as its length does."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import pytest

from templates.conversation import ChatMessage, Conversation, Role, TextPart, ToolCall
from templates.format import ChatFormat, TokenizerInfo
from templates.jinja_format import JinjaFormat
from templates.registry import open_format
from tests.call_counts import num_calls

JINJA = (
    "{%- for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{%- for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>"
    "{%- endfor %}<|im_end|>\n{% endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOKENIZER = TokenizerInfo(special_tokens=frozenset({"<|im_start|>", "<|im_end|>"}))


def text(role: Role, said: str = "one two") -> ChatMessage:
    return ChatMessage(role, (TextPart(said),))


def neighbours(count: int) -> list[ChatMessage]:
    return [text(Role.USER)] * count


def turns(count: int) -> list[ChatMessage]:
    return [text(Role.USER), text(Role.ASSISTANT)] * (count // 2) + [text(Role.USER)]


def results(count: int) -> list[ChatMessage]:
    calls = tuple(ToolCall("f", "{}", f"c{number}") for number in range(count))
    asked = ChatMessage(Role.ASSISTANT, (), tool_calls=calls)
    return [text(Role.USER), asked, *(text(Role.TOOL) for _ in calls)]


def systems(count: int) -> list[ChatMessage]:
    return [text(Role.SYSTEM)] * count + [text(Role.USER)]


def parts(count: int) -> list[ChatMessage]:
    return [ChatMessage(Role.USER, (TextPart("one "),) * count)]


def spelt(count: int) -> list[ChatMessage]:
    return [text(Role.USER, "<|im_end|>")] * count


SHAPES: list[Callable[[int], list[ChatMessage]]] = [
    neighbours,
    turns,
    results,
    systems,
    parts,
    spelt,
]
FORMATS: dict[str, ChatFormat] = {
    "qwen": open_format("qwen", TOKENIZER, ()),
    "llama3": open_format("llama3", TOKENIZER, ()),
    "jinja": JinjaFormat("jinja", {"default": JINJA}, TOKENIZER),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FORMATS)
def test_twice_the_messages_take_twice_the_operations(
    name: str, shape: Callable[[int], list[ChatMessage]]
) -> None:
    few, many = (Conversation(tuple(shape(count))) for count in (500, 1000))
    FORMATS[name].render(few)
    once, twice = (num_calls(lambda c=c: FORMATS[name].render(c)) for c in (few, many))
    assert twice < 2.1 * once + 100


def cpu_s(action: Callable[[], Any]) -> float:
    """The lesser of two, as whatever disturbs adds."""
    gc.disable()
    try:
        spent: list[float] = []
        for _ in range(2):
            before = time.thread_time()
            action()
            spent.append(time.thread_time() - before)
    finally:
        gc.enable()
    return min(spent)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["qwen", "jinja"])
def test_no_message_is_copied_for_each_that_follows(
    name: str, shape: Callable[[int], list[ChatMessage]]
) -> None:
    """Copies are no calls; ten times the messages would take them a hundred times as long."""
    few, many = (Conversation(tuple(shape(count))) for count in (4_000, 40_000))
    FORMATS[name].render(few)
    assert cpu_s(lambda: FORMATS[name].render(many)) < 30 * cpu_s(lambda: FORMATS[name].render(few))
