"""Legacy completions through OpenAI's own client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from server.completions.schemas import Completion
from tests.gateway.conftest import MODEL, REPLIES, make_config, start_gateway, start_worker


def test_a_completion_has_every_field(client: openai.OpenAI) -> None:
    raw = client.completions.with_raw_response.create(model=MODEL, prompt="say hello")
    body = Completion.model_validate_json(raw.content, strict=True)
    assert body.id.startswith("cmpl-")
    assert body.choices[0].text == "Hello there, friend."
    assert body.choices[0].finish_reason == "stop"
    assert body.choices[0].logprobs is None
    assert body.usage.completion_tokens == 5


def test_sixteen_tokens_unless_asked_otherwise(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="many words")
    assert answer.usage.completion_tokens == 16
    assert answer.choices[0].finish_reason == "length"


def test_choices_of_a_batch_are_numbered_by_prompt(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt=["say hello", "think first"], n=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text.startswith("Hello") for choice in answer.choices] == [
        True,
        True,
        False,
        False,
    ]
    one = client.completions.create(model=MODEL, prompt="say hello")
    two = client.completions.create(model=MODEL, prompt="think first")
    assert answer.usage.prompt_tokens == one.usage.prompt_tokens + two.usage.prompt_tokens


def test_token_prompts_are_used_as_they_are(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt=[0, 2, 4], max_tokens=1)
    assert answer.usage.prompt_tokens == 3
    both = client.completions.create(model=MODEL, prompt=[[0, 2], [4]], max_tokens=1)
    assert both.usage.prompt_tokens == 3
    assert len(both.choices) == 2


def test_echo_puts_the_prompt_first(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="say hello", echo=True)
    assert answer.choices[0].text == "say helloHello there, friend."


def test_a_prompt_is_scored_without_generating(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt="say hello now", echo=True, logprobs=1, max_tokens=0
    )
    choice = answer.choices[0]
    assert choice.text == "say hello now"
    logprobs = choice.logprobs
    assert "".join(logprobs.tokens) == "say hello now"
    assert logprobs.token_logprobs[0] is None
    assert all(value is not None for value in logprobs.token_logprobs[1:])
    assert logprobs.top_logprobs[0] is None
    assert logprobs.text_offset == [0, 3, 9]
    assert answer.usage.completion_tokens == 0


def test_logprobs_of_the_answer(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="say hello", logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert "".join(logprobs.tokens) == "Hello there, friend."
    assert all(2 <= len(top) <= 3 for top in logprobs.top_logprobs)


def test_best_of_answers_with_n(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="say hello", best_of=4, n=2)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.choices[0].logprobs is None
    assert answer.usage.completion_tokens == 20


@pytest.fixture(scope="module")
def client_of_adding_tokenizer(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[openai.OpenAI]:
    """To an engine whose tokenizer begins texts with a BOS."""
    folder = tmp_path_factory.mktemp("bos")
    words = ["<s>", "<|im_end|>"]
    worker = start_worker(folder, "engine", REPLIES, bos_token="<s>", special_tokens=words)
    running = start_gateway(make_config(folder), [worker], [MODEL])
    with running.client() as opened:
        yield opened
    running.stop()
    worker.stop()


@pytest.mark.parametrize("stream", [False, True])
def test_a_text_prompt_begins_with_the_bos_that_the_tokenizer_adds(
    client_of_adding_tokenizer: openai.OpenAI, stream: bool
) -> None:
    request: dict[str, Any] = {
        "model": MODEL,
        "prompt": "say hello now",
        "echo": True,
        "logprobs": 0,
        "max_tokens": 0,
    }
    if stream:
        options = {"stream": True, "stream_options": {"include_usage": True}}
        chunks = list(client_of_adding_tokenizer.completions.create(**request, **options))
        choice, usage = chunks[0].choices[0], chunks[-1].usage
    else:
        answer = client_of_adding_tokenizer.completions.create(**request)
        choice, usage = answer.choices[0], answer.usage
    assert choice.text == "say hello now"
    assert choice.logprobs.tokens == ["<s>", "say", " hello", " now"]
    assert choice.logprobs.text_offset == [0, 0, 3, 9]
    assert usage.prompt_tokens == 4


def test_the_bos_is_the_tokenizer_s_to_add_in_text_prompts_only(
    client_of_adding_tokenizer: openai.OpenAI,
) -> None:
    create = client_of_adding_tokenizer.completions.create
    assert create(model=MODEL, prompt=[2, 4], max_tokens=1).usage.prompt_tokens == 2
    both = create(model=MODEL, prompt=["say hello", "many words"], max_tokens=1)
    assert both.usage.prompt_tokens == 6


@pytest.mark.parametrize("logprobs", [None, 1])
@pytest.mark.parametrize("echo", [False, True])
def test_a_stream_adds_up_to_the_answer(
    client: openai.OpenAI, echo: bool, logprobs: int | None
) -> None:
    request: dict[str, Any] = {
        "model": MODEL,
        "prompt": "say hello",
        "echo": echo,
        "logprobs": logprobs,
    }
    whole = client.completions.create(**request)
    stream = client.completions.create(
        **request, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert last.choices == []
    assert last.usage.completion_tokens == 5
    if logprobs is not None:
        tokens = [t for c in chunks if c.choices[0].logprobs for t in c.choices[0].logprobs.tokens]
        assert tokens == whole.choices[0].logprobs.tokens
