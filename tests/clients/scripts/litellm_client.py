import asyncio
import json
import os

import litellm

MODEL = os.environ["MODEL"]
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
PARIS = "The capital of France is Paris."
WEATHER = [{"role": "user", "content": "What is the weather in Montreal?"}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "get_weather", "description": "Get the current weather"}
TOOLS = [{"type": "function", "function": {**FUNCTION, "parameters": PARAMETERS}}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}

for name in (f"openai/{MODEL}", f"hosted_vllm/{MODEL}"):
    settings = {"model": name, "temperature": 0}
    if name.startswith("hosted_vllm/"):
        settings["api_base"] = os.environ["OPENAI_BASE_URL"]
        settings["api_key"] = os.environ["OPENAI_API_KEY"]
    whole = litellm.completion(messages=QUESTION, **settings)
    assert whole.choices[0].message.content == PARIS
    stream = litellm.completion(messages=QUESTION, stream=True, **settings)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == PARIS
    called = litellm.completion(messages=WEATHER, tools=TOOLS, **settings)
    (call,) = called.choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Montreal"}
    placed = litellm.completion(
        messages=QUESTION,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "place", "schema": SCHEMA, "strict": True},
        },
        **settings,
    )
    assert json.loads(placed.choices[0].message.content)["city"] in ("Paris", "Rome")
    vectors = litellm.embedding(model=name, input=["one"], **dict(list(settings.items())[2:]))
    assert vectors.data[0]["embedding"]

answer = asyncio.run(litellm.acompletion(f"openai/{MODEL}", QUESTION, temperature=0))
assert answer.choices[0].message.content == PARIS
response = litellm.responses(model=f"openai/{MODEL}", input=QUESTION[0]["content"], temperature=0)
assert response.output_text == PARIS
events = litellm.responses(
    model=f"openai/{MODEL}", input=QUESTION[0]["content"], temperature=0, stream=True
)
deltas = [e.delta for e in events if e.type == "response.output_text.delta"]
assert "".join(deltas) == PARIS
text = litellm.text_completion(
    model=f"text-completion-openai/{MODEL}", prompt="The capital", max_tokens=4
)
assert text.choices[0].text
try:
    litellm.completion("openai/none", QUESTION)
except litellm.NotFoundError:
    pass
else:
    raise AssertionError("a model that is not there answered")
