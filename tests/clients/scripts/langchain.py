import asyncio
import os
from typing import Literal

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel

MODEL = os.environ["MODEL"]
QUESTION = "What is the capital of France?"
PARIS = "The capital of France is Paris."


class Place(BaseModel):
    """Where it is."""

    city: Literal["Paris", "Rome"]


@tool
def get_weather(city: str) -> dict[str, object]:
    """Get the current weather"""
    return {"temperature": 20, "condition": "sunny"}


def try_chat(model: ChatOpenAI) -> None:
    answer = model.invoke(QUESTION)
    assert answer.text == PARIS, answer
    assert answer.usage_metadata["output_tokens"] > 0
    assert "".join(chunk.text for chunk in model.stream(QUESTION)) == PARIS
    assert asyncio.run(model.ainvoke(QUESTION)).text == PARIS
    assert [one.text for one in model.batch([QUESTION, QUESTION])] == [PARIS, PARIS]
    for method in ("json_schema", "function_calling"):
        placed = model.with_structured_output(Place, method=method).invoke(QUESTION)
        assert placed.city in ("Paris", "Rome")

    caller = model.bind_tools([get_weather])
    messages = [HumanMessage("What is the weather in Montreal?")]
    called = caller.invoke(messages)
    (call,) = called.tool_calls
    assert call["args"] == {"city": "Montreal"}
    result = get_weather.invoke(call)
    assert isinstance(result, ToolMessage)
    answered = caller.invoke([*messages, called, result])
    assert answered.text == "It is 20 degrees and sunny in Montreal."


try_chat(ChatOpenAI(model=MODEL, temperature=0))
try_chat(ChatOpenAI(model=MODEL, temperature=0, use_responses_api=True))
kept = ChatOpenAI(model=MODEL, use_responses_api=True, use_previous_response_id=True, temperature=0)
first = kept.invoke([HumanMessage("My name is Stella.")])
second = kept.invoke([HumanMessage("My name is Stella."), first, HumanMessage("What is my name?")])
assert "Stella" in second.text

assert OpenAI(model=MODEL, max_tokens=4).invoke("The capital")

# Without this it counts tokens as OpenAI's models do, for which it needs their encodings.
embeddings = OpenAIEmbeddings(model=MODEL, check_embedding_ctx_length=False)
one, two = embeddings.embed_documents(["one", "two"])
assert len(one) == len(two) > 0
assert len(embeddings.embed_query("one")) == len(one)
