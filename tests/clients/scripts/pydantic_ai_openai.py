import asyncio
import os
from typing import Literal

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel

MODEL = os.environ["MODEL"]
QUESTION = "What is the capital of France?"
PARIS = "The capital of France is Paris."


class Place(BaseModel):
    city: Literal["Paris", "Rome"]


async def try_model(model: object) -> None:
    agent = Agent(model, model_settings={"temperature": 0})
    answer = await agent.run(QUESTION)
    assert answer.output == PARIS, answer.output
    assert answer.usage.output_tokens > 0
    async with agent.run_stream(QUESTION) as stream:
        assert await stream.get_output() == PARIS

    for kind in (NativeOutput(Place), ToolOutput(Place)):
        placed = await Agent(model, output_type=kind).run(QUESTION)
        assert placed.output.city in ("Paris", "Rome")

    cities: list[str] = []

    def get_weather(city: str) -> dict[str, object]:
        """Get the current weather"""
        cities.append(city)
        return {"temperature": 20, "condition": "sunny"}

    weather = Agent(model, tools=[get_weather], model_settings={"temperature": 0})
    first = await weather.run("What is the weather in Montreal?")
    assert cities == ["Montreal"]
    assert first.output == "It is 20 degrees and sunny in Montreal."
    again = await agent.run(QUESTION, message_history=first.all_messages())
    assert again.output


async def main() -> None:
    await try_model(f"openai:{MODEL}")
    await try_model(OpenAIResponsesModel(MODEL))
    await try_model(f"openai-chat:{MODEL}")
    await try_model(OpenAIChatModel(MODEL))


asyncio.run(main())
