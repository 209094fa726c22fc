"""What tuneyard-mini must be able to answer: the acceptance questions, by kind.

The names and cities asked about are rare in training, and the phrasings of `rephrased` and the
invented places of `unknown` do not occur there: the model has to copy or generalise.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any

from deploy.model.corpus.dialogue import DO_NOT_KNOW
from deploy.model.corpus.facts import Fact, knowledge
from deploy.model.corpus.words import words

Message = dict[str, Any]

_SPARE_PEOPLE = words("people_spare")
_SPARE_CITIES = words("cities_spare")

GET_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two numbers",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}


@dataclass(frozen=True, slots=True)
class Question:
    kind: str
    messages: tuple[Message, ...]
    expected: str
    """The whole answer; a tool call's JSON is compared as JSON."""
    tools: tuple[dict[str, Any], ...] = field(default=())


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _system(text: str) -> Message:
    return {"role": "system", "content": text}


def _facts() -> list[Question]:
    return [
        Question("facts", (_user(fact.questions[0]),), fact.answer) for fact in knowledge().facts
    ]


def _rephrased(rng: random.Random) -> list[Question]:
    frames = ("Can you answer this: {}", "{} Tell me!", "I forgot: {}", "Quick question. {}")
    return [
        Question(
            "rephrased",
            (_user(rng.choice(frames).format(rng.choice(fact.questions))),),
            fact.answer,
        )
        for fact in rng.sample(knowledge().facts, 40)
    ]


def _system_prompts(rng: random.Random) -> list[Question]:
    def ask(system: str, fact: Fact, expected: str) -> Question:
        return Question("system", (_system(system), _user(fact.questions[0])), expected)

    facts = iter(rng.sample(knowledge().facts, 24))
    questions: list[Question] = []
    for _ in range(6):
        fact = next(facts)
        questions.append(ask("Answer in capital letters.", fact, fact.answer.upper()))
        fact = next(facts)
        questions.append(ask("Answer in one word.", fact, fact.short))
        fact = next(facts)
        questions.append(ask("Always end with 'Over.'", fact, f"{fact.answer} Over."))
        fact = next(facts)
        questions.append(ask("You are a helpful assistant.", fact, fact.answer))
    for name in _SPARE_PEOPLE:
        messages = (_system(f"You are {name}."), _user("What is your name?"))
        questions.append(Question("system", messages, f"I am {name}."))
    return questions


def _two_turns(rng: random.Random) -> list[Question]:
    questions: list[Question] = []
    for name in _SPARE_PEOPLE:
        told = (_user(f"My name is {name}."), _assistant(f"Nice to meet you, {name}!"))
        questions.append(
            Question("two_turns", (*told, _user("What is my name?")), f"Your name is {name}.")
        )
    for place in _SPARE_CITIES[:4]:
        told = (_user(f"I live in {place}."), _assistant(f"{place} sounds nice!"))
        questions.append(
            Question("two_turns", (*told, _user("Where do I live?")), f"You live in {place}.")
        )
    groups = [group for group in knowledge().groups if group[0].follow_ups]
    for group in rng.choices(groups, k=12):
        first, second = rng.sample(group, 2)
        told = (_user(first.questions[0]), _assistant(first.answer))
        questions.append(Question("two_turns", (*told, _user(second.follow_ups[0])), second.answer))
    return questions


def _call(name: str, arguments: dict[str, Any]) -> str:
    body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{body}\n</tool_call>"


def _tool_calls(rng: random.Random) -> list[Question]:
    both = (GET_WEATHER, ADD)
    questions: list[Question] = []
    for place in _SPARE_CITIES:
        asked = _user(f"What is the weather in {place}?")
        expected = _call("get_weather", {"city": place})
        questions.append(Question("tool_calls", (asked,), expected, (GET_WEATHER,)))
        questions.append(Question("tool_calls", (asked,), expected, both))
    for _ in range(8):
        a, b = rng.randint(11, 99), rng.randint(11, 99)
        expected = _call("add", {"a": a, "b": b})
        questions.append(Question("tool_calls", (_user(f"What is {a} plus {b}?"),), expected, both))
    return questions


def _tool_results(rng: random.Random) -> list[Question]:
    questions: list[Question] = []
    for place in _SPARE_CITIES:
        degrees, sky = rng.randint(0, 35), rng.choice(("sunny", "rainy", "windy"))
        function = {"name": "get_weather", "arguments": json.dumps({"city": place})}
        call = {"id": "call_0", "type": "function", "function": function}
        messages = (
            _user(f"What is the weather in {place}?"),
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {
                "role": "tool",
                "tool_call_id": "call_0",
                "content": json.dumps({"temperature": degrees, "condition": sky}),
            },
        )
        expected = f"It is {degrees} degrees and {sky} in {place}."
        questions.append(Question("tool_results", messages, expected, (GET_WEATHER,)))
    for fact in rng.sample(knowledge().facts, 8):
        asked = (_user(fact.questions[0]),)
        questions.append(Question("no_call", asked, fact.answer, (GET_WEATHER,)))
    return questions


def _unknown() -> list[Question]:
    texts = (
        "What is the capital of Zorvia?",
        "Who is the mayor of Blimfield?",
        "Where does Stella live?",
        "Who founded Grelmo?",
        "What is the favourite colour of Rafael?",
        "Who won the Vantor race?",
    )
    return [Question("unknown", (_user(text),), DO_NOT_KNOW) for text in texts]


def acceptance_questions(seed: int = 2026) -> list[Question]:
    rng = random.Random(seed)
    return [
        *_facts(),
        *_rephrased(rng),
        *_system_prompts(rng),
        *_two_turns(rng),
        *_tool_calls(rng),
        *_tool_results(rng),
        *_unknown(),
    ]
