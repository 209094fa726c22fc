import asyncio
import os
from typing import Literal

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike, OpenAILikeResponses
from pydantic import BaseModel

MODEL = os.environ["MODEL"]
QUESTION = "What is the capital of France?"
PARIS = "The capital of France is Paris."
SERVICE = {"api_base": os.environ["OPENAI_BASE_URL"], "api_key": os.environ["OPENAI_API_KEY"]}


class Place(BaseModel):
    """Where it is."""

    city: Literal["Paris", "Rome"]


def get_weather(city: str) -> str:
    """Get the current weather"""
    return "sunny"


def try_chat(llm: OpenAILike) -> None:
    asked = [ChatMessage(role="user", content=QUESTION)]
    assert llm.chat(asked).message.content == PARIS
    assert "".join(part.delta or "" for part in llm.stream_chat(asked)) == PARIS
    assert asyncio.run(llm.achat(asked)).message.content == PARIS
    assert llm.complete(QUESTION).text
    assert llm.as_structured_llm(Place).chat(asked).raw.city in ("Paris", "Rome")
    weather = FunctionTool.from_defaults(get_weather, description="Get the current weather")
    answer = llm.chat_with_tools([weather], user_msg="What is the weather in Montreal?")
    (call,) = llm.get_tool_calls_from_response(answer)
    assert call.tool_kwargs == {"city": "Montreal"}


settings = {"model": MODEL, "temperature": 0, "context_window": 2048, **SERVICE}
kinds = {"is_chat_model": True, "is_function_calling_model": True}
try_chat(OpenAILike(**settings, **kinds))
try_chat(OpenAILike(**settings, **kinds, should_use_structured_outputs=True))
try_chat(OpenAILikeResponses(**settings, **kinds))
plain = OpenAILike(**settings, is_chat_model=False, max_tokens=4)
assert plain.complete("The capital").text

embedding = OpenAILikeEmbedding(model_name=MODEL, **SERVICE)
assert len(embedding.get_text_embedding_batch(["one", "two"])) == 2
