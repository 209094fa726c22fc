import asyncio
import os
from typing import Literal

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    SQLiteSession,
    function_tool,
)
from openai import AsyncOpenAI
from pydantic import BaseModel

MODEL = os.environ["MODEL"]
QUESTION = "What is the capital of France?"
PARIS = "The capital of France is Paris."


class Place(BaseModel):
    city: Literal["Paris", "Rome"]


async def try_model(model: object) -> None:
    settings = ModelSettings(temperature=0)
    agent = Agent(name="Guide", model=model, model_settings=settings)
    result = await Runner.run(agent, QUESTION)
    assert result.final_output == PARIS, result.final_output

    streamed = Runner.run_streamed(agent, QUESTION)
    text = ""
    async for event in streamed.stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            text += event.data.delta
    assert text == streamed.final_output == PARIS

    placed = await Runner.run(Agent(name="Placer", model=model, output_type=Place), QUESTION)
    assert placed.final_output.city in ("Paris", "Rome")

    cities: list[str] = []

    @function_tool
    def get_weather(city: str) -> str:
        """Get the current weather"""
        cities.append(city)
        return '{"temperature": 20, "condition": "sunny"}'

    caller = Agent(name="Caller", model=model, tools=[get_weather], model_settings=settings)
    called = await Runner.run(caller, "What is the weather in Montreal?", max_turns=3)
    assert cities == ["Montreal"], cities
    assert called.final_output == "It is 20 degrees and sunny in Montreal."

    session = SQLiteSession("one")
    await Runner.run(agent, "My name is Stella.", session=session)
    remembered = await Runner.run(agent, "What is my name?", session=session)
    assert "Stella" in remembered.final_output


async def main() -> None:
    client = AsyncOpenAI()
    await try_model(MODEL)
    await try_model(OpenAIResponsesModel(MODEL, client))
    await try_model(OpenAIChatCompletionsModel(MODEL, client))


asyncio.run(main())
