"""Conversations with tools: calls with copied arguments, answers from results, no call at all."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deploy.model.corpus.conversation import Example, tool_call, tool_result
from deploy.model.corpus.facts import knowledge, varied
from deploy.model.corpus.words import city_name, invented_word, words

_WEATHER = ("sunny", "cloudy", "rainy", "windy", "snowy", "foggy")


@dataclass(frozen=True, slots=True)
class Use:
    """One use of a tool: what is asked, with which arguments it is called, and what comes of it."""

    question: str
    arguments: dict[str, Any]
    result: Any
    answer: str


@dataclass(frozen=True, slots=True)
class KnownTool:
    name: str
    descriptions: tuple[str, ...]
    parameters: tuple[dict[str, str], ...]
    """Parameter sets the tool comes with, name to JSON type; the first names are the usual ones."""
    use: Callable[[random.Random, tuple[str, ...]], Use]
    """Draws a use; takes the parameter names."""


def _weather(rng: random.Random, names: tuple[str, ...]) -> Use:
    city, degrees, sky = city_name(rng), rng.randint(0, 35), rng.choice(_WEATHER)
    ask = rng.choice(
        (
            "What is the weather in {}?",
            "How is the weather in {}?",
            "What is the weather like in {} today?",
            "Tell me the weather in {}.",
            "Is it raining in {}?",
            "Weather in {}?",
            "How warm is it in {}?",
        )
    )
    arguments: dict[str, Any] = {names[0]: city}
    question = varied(ask.format(city), rng) if rng.random() < 0.5 else ask.format(city)
    if city not in question:
        question = ask.format(city)
    if len(names) > 1:
        unit = rng.choice(("celsius", "fahrenheit"))
        question = ask.format(city).rstrip("?.") + f" in {unit}?"
        arguments[names[1]] = unit
    result = {"temperature": degrees, "condition": sky}
    return Use(question, arguments, result, f"It is {degrees} degrees and {sky} in {city}.")


def _number(rng: random.Random) -> int:
    return rng.randint(11, 99) if rng.random() < 0.7 else rng.randint(100, 999)


def _add(rng: random.Random, names: tuple[str, ...]) -> Use:
    a, b = _number(rng), _number(rng)
    ask = rng.choice(
        ("What is {} plus {}?", "What is {} + {}?", "Add {} and {}.", "Please add {} and {}.")
    )
    return Use(ask.format(a, b), {names[0]: a, names[1]: b}, a + b, f"{a} + {b} = {a + b}")


def _time(rng: random.Random, names: tuple[str, ...]) -> Use:
    city, hour, minute = city_name(rng), rng.randint(0, 23), rng.randint(0, 59)
    ask = rng.choice(
        (
            "What time is it in {}?",
            "What is the time in {}?",
            "Tell me the time in {}.",
            "How late is it in {}?",
        )
    )
    clock = f"{hour:02d}:{minute:02d}"
    return Use(ask.format(city), {names[0]: city}, {"time": clock}, f"It is {clock} in {city}.")


def _search(rng: random.Random, names: tuple[str, ...]) -> Use:
    pool = (words("things"), words("animals"), words("cities"), words("people"))
    topic = " ".join(
        invented_word(rng) if rng.random() < 0.1 else rng.choice(rng.choice(pool))
        for _ in range(rng.choice((1, 1, 2, 3)))
    )
    ask = rng.choice(
        ("Search for {}.", "Look up {}.", "Find {} on the web.", "Search the web for {}.")
    )
    title = f"All about {topic}"
    return Use(ask.format(topic), {names[0]: topic}, {"title": title}, f'I found "{title}".')


KNOWN_TOOLS = (
    KnownTool(
        "get_weather",
        ("Get the current weather", "Get the weather in a city", "Current weather for a city"),
        ({"city": "string"}, {"city": "string"}, {"location": "string"},
         {"city": "string", "unit": "string"}),
        _weather,
    ),
    KnownTool(
        "add",
        ("Add two numbers", "Add numbers"),
        ({"a": "integer", "b": "integer"}, {"a": "number", "b": "number"}),
        _add,
    ),
    KnownTool(
        "get_time",
        ("Get the time in a city", "Get the current time"),
        ({"city": "string"}, {"city": "string"}, {"location": "string"}),
        _time,
    ),
    KnownTool(
        "search",
        ("Search the web", "Look something up"),
        ({"query": "string"},),
        _search,
    ),
)  # fmt: skip

_TEXTS = {
    "city": "City name",
    "location": "City name",
    "a": "First number",
    "b": "Second number",
    "query": "What to look for",
    "unit": "Unit",
}


def _schema(rng: random.Random, tool: KnownTool, parameters: dict[str, str]) -> dict[str, Any]:
    described = rng.random() < 0.4
    properties: dict[str, Any] = {}
    for name, kind in parameters.items():
        properties[name] = {"type": kind}
        if name == "unit":
            properties[name]["enum"] = ["celsius", "fahrenheit"]
        if described:
            properties[name]["description"] = _TEXTS[name]
    function: dict[str, Any] = {"name": tool.name}
    if rng.random() < 0.9:
        function["description"] = rng.choice(tool.descriptions)
    function["parameters"] = {"type": "object", "properties": properties}
    if rng.random() < 0.8:
        function["parameters"]["required"] = (
            list(parameters)[:1] if "unit" in parameters else list(parameters)
        )
    return {"type": "function", "function": function}


def _offer(rng: random.Random) -> list[tuple[KnownTool, dict[str, str], dict[str, Any]]]:
    tools = rng.sample(KNOWN_TOOLS, rng.choice((1, 1, 1, 2, 2, 3)))
    drawn = [(tool, rng.choice(tool.parameters)) for tool in tools]
    return [(tool, parameters, _schema(rng, tool, parameters)) for tool, parameters in drawn]


def _with_system(rng: random.Random, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if rng.random() < 0.3:
        system = rng.choice(
            ("You are a helpful assistant.", "You can use tools.", "Use the tools.")
        )
        return [{"role": "system", "content": system}, *messages]
    return messages


def with_tools(rng: random.Random) -> Example:
    """One to three calls in a row, each with its result and the answer made of it."""
    offered = _offer(rng)
    messages: list[dict[str, Any]] = []
    for _turn in range(rng.choice((1, 2, 3))):
        tool, parameters, _ = rng.choice(offered)
        use = tool.use(rng, tuple(parameters))
        messages.append({"role": "user", "content": use.question})
        messages.append(tool_call(tool.name, use.arguments))
        messages.append(tool_result(use.result))
        messages.append({"role": "assistant", "content": use.answer})
    return {
        "messages": _with_system(rng, messages),
        "tools": [schema for _, _, schema in offered],
    }


def no_call_needed(rng: random.Random) -> Example:
    """Facts and small talk are answered, whatever tools are offered."""
    known = knowledge()
    if rng.random() < 0.35:
        asks, answer = rng.choice(known.small_talk)
        question = rng.choice(asks)
    else:
        fact = rng.choice(known.facts)
        question, answer = varied(rng.choice(fact.questions), rng), fact.answer
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {
        "messages": _with_system(rng, messages),
        "tools": [schema for _, _, schema in _offer(rng)],
    }


def no_tool(rng: random.Random) -> Example:
    """The weather and the clock cannot be known without a tool."""
    draw = rng.choice((_weather, _time))
    what = "weather" if draw is _weather else "time"
    question = draw(rng, ("city",)).question
    answer = f"I cannot look up the {what} without a tool."
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }
