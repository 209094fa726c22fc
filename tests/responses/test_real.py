"""Responses of the bundled model: real engine, real grammars, official client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from deploy.model.questions import GET_WEATHER
from server.config import BUNDLED_MODEL, Config, EngineKind, ModelEntry
from tests.gateway.conftest import MODEL, start_gateway, user
from tests.gateway.test_tools_real import start_hf_worker

WEATHER: dict[str, Any] = {"type": "function", **GET_WEATHER["function"]}
FACT = "What is the capital of France?"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    folder = tmp_path_factory.mktemp("rr")
    worker = start_hf_worker(folder)
    entry = ModelEntry(id=MODEL, path=str(BUNDLED_MODEL), engine=EngineKind.HF)
    gateway = start_gateway(Config(data=folder, models=(entry,)), [worker], [MODEL])
    with gateway.client(_strict_response_validation=True) as client:
        yield client
    gateway.stop()
    worker.stop()


def test_it_answers_as_chat_does(real: openai.OpenAI) -> None:
    chat = real.chat.completions.create(model=MODEL, messages=user(FACT), temperature=0)
    response = real.responses.create(model=MODEL, input=FACT, temperature=0)
    assert response.output_text == chat.choices[0].message.content
    assert "Paris" in response.output_text
    assert response.usage is not None
    assert chat.usage is not None
    assert response.usage.input_tokens == chat.usage.prompt_tokens
    counted = real.responses.input_tokens.count(model=MODEL, input=FACT)
    assert counted.input_tokens == chat.usage.prompt_tokens
    with real.responses.stream(model=MODEL, input=FACT, temperature=0) as stream:
        text = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
    assert text == response.output_text


def test_a_tool_is_called_and_answered(real: openai.OpenAI) -> None:
    asked: Any = {"model": MODEL, "tools": [WEATHER], "temperature": 0}
    first = real.responses.create(input="What is the weather in Paris?", **asked)
    (call,) = [item for item in first.output if item.type == "function_call"]
    assert json.loads(call.arguments) == {"city": "Paris"}
    output: Any = {
        "type": "function_call_output",
        "call_id": call.call_id,
        "output": '{"weather": "sunny"}',
    }
    second = real.responses.create(input=[output], previous_response_id=first.id, **asked)
    assert second.status == "completed"
    assert second.output_text


def test_a_strict_schema_holds_the_model(real: openai.OpenAI) -> None:
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "green"]}},
        "required": ["colour"],
        "additionalProperties": False,
    }
    wanted: Any = {"type": "json_schema", "name": "paint", "schema": schema, "strict": True}
    response = real.responses.create(
        model=MODEL, input="Choose a colour.", text={"format": wanted}, extra_body={"seed": 1}
    )
    assert json.loads(response.output_text)["colour"] in ("red", "green")
