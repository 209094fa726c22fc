import os
from collections.abc import Iterable
from typing import Literal

import instructor
from openai import OpenAI
from pydantic import BaseModel

MODEL = os.environ["MODEL"]
SCRIPTED = os.environ["SCRIPTED_MODEL"]
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
Mode = instructor.Mode
BOUND = (Mode.TOOLS, Mode.TOOLS_STRICT, Mode.JSON_SCHEMA, Mode.RESPONSES_TOOLS)
"""The service holds the model to the schema."""
TOLD = (Mode.JSON, Mode.MD_JSON)
"""The model only reads of the schema in its prompt, and must be able to follow it."""


class Place(BaseModel):
    city: Literal["Paris", "Rome"]


class get_weather(BaseModel):
    """Get the current weather"""

    city: str


for mode, model in [(mode, MODEL) for mode in BOUND] + [(mode, SCRIPTED) for mode in TOLD]:
    client = instructor.from_openai(OpenAI(), mode=mode)
    place = client.chat.completions.create(
        model=model, messages=QUESTION, response_model=Place, temperature=0, max_retries=3
    )
    assert place.city in ("Paris", "Rome"), mode

parallel = instructor.from_openai(OpenAI(), mode=Mode.PARALLEL_TOOLS)
calls = parallel.chat.completions.create(
    model=MODEL,
    messages=[{"role": "user", "content": "What is the weather in Montreal?"}],
    response_model=Iterable[get_weather],
    temperature=0,
)
assert list(calls) == [get_weather(city="Montreal")]

tools = instructor.from_openai(OpenAI(), mode=Mode.TOOLS)
partial = tools.chat.completions.create_partial(
    model=MODEL, messages=QUESTION, response_model=Place, temperature=0
)
assert list(partial)[-1].city in ("Paris", "Rome")
