"""The gateway on every engine: a thinking budget, usage, and a picture that is not taken."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from transformers import AutoTokenizer, Qwen3ForCausalLM

from server.config import Config, ModelEntry
from tests.conformance.engines import EngineProcess
from tests.conformance.model_files import MODEL_PATH, ModelFiles
from tests.gateway.conftest import MODEL, Worker, start_gateway

_QUESTION = "What is the capital of France?"
_PROMPT = f"<|im_start|>user\n{_QUESTION}<|im_end|>\n<|im_start|>assistant\n<think>\n"
_ENDING = "\n</think>\n\n"
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['reasoning_content'] %}<think>\n{{ message['reasoning_content'] }}\n</think>\n\n"
    "{% endif %}{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
_BUDGET, _NUM_SAID = 5, 6
_PIXEL = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
        "0000000c49444154789c63606060000000040001f61738550000000049454e44ae426082"
    )
).decode()


@dataclass(frozen=True, slots=True)
class Expected:
    thought: str
    said: str
    num_prompt: int
    num_ending: int


@pytest.fixture(scope="session")
def expected() -> Expected:
    """By the model's class: so many tokens of thought, then of an answer behind the ending."""
    tokenizer: Any = AutoTokenizer.from_pretrained(MODEL_PATH)
    model = Qwen3ForCausalLM.from_pretrained(MODEL_PATH, dtype=torch.float32).eval()
    prompt: list[int] = tokenizer.encode(_PROMPT)
    ending: list[int] = tokenizer.encode(_ENDING)
    thought = _greedy(model, prompt, _BUDGET)
    said = _greedy(model, [*prompt, *thought, *ending], _NUM_SAID)
    return Expected(tokenizer.decode(thought), tokenizer.decode(said), len(prompt), len(ending))


def _greedy(model: Any, prompt: list[int], num_tokens: int) -> list[int]:
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(num_tokens):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.fixture
def openai_client(engine: EngineProcess, tmp_path: Path) -> Iterator[openai.OpenAI]:
    templates = tmp_path / "templates"
    templates.mkdir()
    (templates / "thinker.jinja").write_text(_TEMPLATE)
    config = Config.model_validate(
        {
            "data": tmp_path / "data",
            "templates": (templates,),
            "models": (
                ModelEntry.model_validate(
                    {"id": MODEL, "path": "/nowhere", "engine": "hf", "template": "thinker"}
                ),
            ),
        }
    )
    gateway = start_gateway(config, [Worker(engine.address, engine.process)], [MODEL])
    try:
        with gateway.client() as client:
            yield client
    finally:
        gateway.stop()


def _ask(client: openai.OpenAI, **fields: Any) -> Any:
    return client.chat.completions.create(
        **{
            "model": MODEL,
            "messages": [{"role": "user", "content": _QUESTION}],
            "temperature": 0,
            "extra_body": {"ignore_eos": True, "skip_special_tokens": False},
            **fields,
        }
    )


def test_a_thinking_budget_ends_the_thought_and_usage_counts_it(
    openai_client: openai.OpenAI, model: ModelFiles, expected: Expected
) -> None:
    extra = {"ignore_eos": True, "skip_special_tokens": False, "thinking_budget": _BUDGET}
    length = _BUDGET + expected.num_ending + _NUM_SAID
    answer = _ask(openai_client, extra_body=extra, max_completion_tokens=length)
    message = answer.choices[0].message
    assert message.reasoning_content.strip() == expected.thought.strip()
    assert message.content.strip() == expected.said.strip()
    assert answer.choices[0].finish_reason == "length"
    usage = answer.usage
    assert usage.prompt_tokens == expected.num_prompt
    assert usage.completion_tokens == length
    assert usage.total_tokens == expected.num_prompt + length
    assert usage.completion_tokens_details.reasoning_tokens == _BUDGET


def test_usage_is_the_same_streamed_and_whole(
    openai_client: openai.OpenAI, model: ModelFiles, expected: Expected
) -> None:
    whole = _ask(openai_client, max_completion_tokens=7, n=2).usage
    *_, last = _ask(
        openai_client,
        max_completion_tokens=7,
        n=2,
        stream=True,
        stream_options={"include_usage": True},
    )
    for usage in (whole, last.usage):
        assert (usage.prompt_tokens, usage.completion_tokens) == (expected.num_prompt, 14)
        assert usage.total_tokens == expected.num_prompt + 14
        assert usage.completion_tokens_details.reasoning_tokens == 14
        assert 0 <= usage.prompt_tokens_details.cached_tokens <= expected.num_prompt


def test_a_picture_is_refused_by_its_place(openai_client: openai.OpenAI, model: ModelFiles) -> None:
    url = {"url": f"data:image/png;base64,{_PIXEL}"}
    content = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": url}]
    with pytest.raises(openai.BadRequestError) as caught:
        _ask(openai_client, messages=[{"role": "user", "content": content}])
    assert caught.value.param == "messages[0].content[1]"
    assert caught.value.code == "unsupported_value"
