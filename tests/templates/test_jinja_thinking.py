"""Thinking switches of models' own templates, by whatever name the template reads them."""

from __future__ import annotations

from typing import Any

import pytest

from templates.conversation import Conversation, RenderOptions
from templates.format import ContentDelta, ReasoningDelta, TokenizerInfo
from templates.registry import open_format
from tests.dialects.streams import run
from tests.templates.conversations import says

SHOWN = "{{ messages[0].content }}|</think>|"
EFFORT_AND_SWITCH = SHOWN + "{{ thinking }} {{ reasoning_effort }}"
EFFORT = SHOWN + "{{ reasoning_effort }}"
BUDGET = SHOWN + "{{ thinking_budget }}"


def shown(source: str, **options: Any) -> str:
    chat_format = open_format(None, TokenizerInfo(chat_templates={"default": source}))
    conversation = Conversation((says("user", "hi"),), options=RenderOptions(**options))
    text = "".join(segment.text for segment in chat_format.render(conversation).segments)
    return text.rpartition("|")[2].strip()


@pytest.mark.parametrize(
    ("source", "options", "expected"),
    [
        (EFFORT_AND_SWITCH, {"reasoning_effort": "high"}, "True high"),
        (EFFORT_AND_SWITCH, {"reasoning_effort": "none"}, "False none"),
        (EFFORT_AND_SWITCH, {"enable_thinking": False}, "False"),
        (EFFORT, {"reasoning_effort": "high"}, "high"),
        (BUDGET, {"enable_thinking": False}, "0"),
        (BUDGET, {"reasoning_effort": "none"}, "0"),
        (BUDGET, {"thinking_budget": 50}, "50"),
        (BUDGET, {"enable_thinking": True}, ""),
    ],
)
def test_thinking_is_switched_by_what_the_template_reads(
    source: str, options: dict[str, Any], expected: str
) -> None:
    assert shown(source, **options) == expected


@pytest.mark.parametrize("switch", ["clear_thinking", "truncate_history_thinking", "drop_thinking"])
def test_thoughts_of_earlier_turns_are_kept_by_the_switch_that_drops_them(switch: str) -> None:
    source = SHOWN + "{{ " + switch + " }}"
    assert shown(source, preserve_thinking=True) == "False"
    assert shown(source, preserve_thinking=False) == "True"


def test_cohere_thinks_between_marks_of_its_own() -> None:
    source = (
        "{{ messages[0].content }}{{ tools }}<|START_ACTION|><|START_THINKING|><|END_THINKING|>"
    )
    chat_format = open_format(None, TokenizerInfo(chat_templates={"default": source}))
    conversation = Conversation((says("user", "hi"),))
    parser = chat_format.parser(chat_format.render(conversation), ())
    said = "<|START_THINKING|>so<|END_THINKING|><|START_RESPONSE|>Hi<|END_RESPONSE|>"
    assert run(parser, [said]) == [ReasoningDelta("so"), ContentDelta("Hi")]
