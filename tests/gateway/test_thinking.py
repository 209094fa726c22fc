"""Thinking that is switched, graded and limited by a request."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.gateway.conftest import MODEL, user

ENDING_TOKENS = 3
"""What the words that end a thought (`\\n</think>\\n\\n`) count."""


def chat(client: openai.OpenAI, text: str, extra: dict[str, Any], **fields: Any) -> Any:
    return client.chat.completions.create(
        model=MODEL, messages=user(text), extra_body=extra, **fields
    )


def test_a_budget_ends_the_thinking_and_the_answer_follows(client: openai.OpenAI) -> None:
    answer = chat(client, "think long", {"thinking_budget": 5})
    (choice,) = answer.choices
    assert choice.message.reasoning_content == "hm hm hm hm hm"
    assert choice.message.content == "Cut short."
    assert choice.finish_reason == "stop"
    usage = answer.usage
    assert usage.completion_tokens_details.reasoning_tokens == 5
    opening, said = 2, 3
    assert usage.completion_tokens == opening + 5 + ENDING_TOKENS + said
    unlimited = chat(client, "think long", {})
    assert usage.prompt_tokens == unlimited.usage.prompt_tokens


def test_a_budget_holds_in_a_stream_and_for_every_answer(client: openai.OpenAI) -> None:
    thoughts, contents = ["", ""], ["", ""]
    for chunk in chat(client, "think long", {"thinking_budget": 3}, n=2, stream=True):
        for choice in chunk.choices:
            thoughts[choice.index] += getattr(choice.delta, "reasoning_content", None) or ""
            contents[choice.index] += choice.delta.content or ""
    assert thoughts == ["hm hm hm"] * 2
    assert contents == ["Cut short."] * 2


def test_a_thought_within_the_budget_is_left_alone(client: openai.OpenAI) -> None:
    answer = chat(client, "think first", {"thinking_budget": 500})
    assert answer.choices[0].message.reasoning_content == "hmm hmm"
    assert answer.choices[0].message.content == "Done thinking."


def test_the_length_of_an_answer_counts_its_thinking(client: openai.OpenAI) -> None:
    limit = 2 + 5 + ENDING_TOKENS + 1
    answer = chat(client, "think long", {"thinking_budget": 5}, max_completion_tokens=limit)
    assert answer.choices[0].message.content == "Cut"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == limit
    none_left = chat(client, "think long", {"thinking_budget": 5}, max_completion_tokens=8)
    assert not none_left.choices[0].message.content
    assert none_left.choices[0].finish_reason == "length"


def test_a_guide_binds_the_answer_after_a_cut_thought(client: openai.OpenAI) -> None:
    extra = {"thinking_budget": 4, "guided_choice": ["red", "blue"]}
    answer = chat(client, "think long", extra)
    assert answer.choices[0].message.content == "red"


def test_low_effort_leaves_short_thoughts_alone(client: openai.OpenAI) -> None:
    answer = chat(client, "think first", {}, reasoning_effort="low")
    assert answer.choices[0].message.content == "Done thinking."


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"thinking_budget": 0}, "thinking_budget"),
        ({"thinking_budget": 10, "enable_thinking": False}, "thinking_budget"),
        ({"thinking_budget": 10, "reasoning_effort": "none"}, "thinking_budget"),
        ({"enable_thinking": True, "reasoning_effort": "minimal"}, "reasoning_effort"),
        (
            {"enable_thinking": True, "chat_template_kwargs": {"enable_thinking": True}},
            "enable_thinking",
        ),
        (
            {"chat_template_kwargs": {"preserve_thinking": "yes"}},
            "chat_template_kwargs.preserve_thinking",
        ),
    ],
)
def test_what_cannot_be_honoured_is_named(
    client: openai.OpenAI, extra: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, "think first", extra)
    assert caught.value.param == param
