"""What an operator may change of a chat format: the default system message and the dialect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from templates.conversation import Conversation
from templates.format import ChatFormat, FormatSettings, TokenizerInfo
from templates.registry import open_format
from tests.templates.conversations import CALLS, CONVERSATIONS, RESULT, WEATHER, says

DATA = Path(__file__).parent / "data"
INFO = TokenizerInfo(chat_templates={"default": (DATA / "thoughts.jinja").read_text("utf-8")})


def opened(name: str | None, **settings: Any) -> ChatFormat:
    return open_format(name, INFO, (), FormatSettings(**settings))


def prompt(chat_format: ChatFormat, conversation: Conversation) -> str:
    return "".join(segment.text for segment in chat_format.render(conversation).segments)


@pytest.mark.parametrize("name", ["qwen3", "alpaca", None])
def test_a_default_system_stands_where_there_is_none(name: str | None) -> None:
    pirate = opened(name, default_system="Talk like a pirate.")
    assert "Talk like a pirate." in prompt(pirate, CONVERSATIONS["single"])
    assert prompt(pirate, CONVERSATIONS["system"]) == prompt(opened(name), CONVERSATIONS["system"])
    answered = Conversation((*CONVERSATIONS["single"].messages, says("assistant", "Arr")))
    trained = pirate.render_training(answered)[0].prompt
    served = pirate.render(CONVERSATIONS["single"]).segments
    assert "".join(s.text for s in trained) == "".join(s.text for s in served)


def test_an_empty_default_system_takes_the_familys_away() -> None:
    assert "Below is an instruction" not in prompt(
        opened("alpaca", default_system=""), CONVERSATIONS["single"]
    )


def test_another_dialect_shows_writes_and_reads() -> None:
    chat_format = opened("chatml", tool_format="qwen")
    conversation = Conversation((*CONVERSATIONS["tools"].messages, CALLS, RESULT), (WEATHER,))
    shown = prompt(chat_format, conversation)
    assert "<tools>" in shown
    assert '<tool_call>\n{"name": "get_weather"' in shown
    for spoken in (chat_format, opened(None, tool_format="glm4_moe")):
        call = {
            "chatml": '<tool_call>\n{"name": "get_weather", "arguments": {}}\n</tool_call>',
            "jinja": "<tool_call>get_weather\n</tool_call>",
        }[spoken.name]
        parser = spoken.parser(spoken.render(CONVERSATIONS["tools"]), (WEATHER,))
        deltas = [*parser.feed(call), *parser.finish()]
        assert next(getattr(delta, "name", None) for delta in deltas) == "get_weather"
