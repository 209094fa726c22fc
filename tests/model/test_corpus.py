"""The training text is reproducible, well formed, and keeps the spare names for the end."""

from __future__ import annotations

import json

from deploy.model.corpus import mixture
from deploy.model.corpus.facts import knowledge
from deploy.model.corpus.words import words


def test_the_same_seed_gives_the_same_text() -> None:
    assert mixture.conversations(1200, 7) == mixture.conversations(1200, 7)
    assert mixture.conversations(1200, 7) != mixture.conversations(1200, 8)
    assert mixture.documents(50, 7) == mixture.documents(50, 7)


def test_spare_names_come_in_the_last_pass_alone() -> None:
    text = json.dumps(mixture.conversations(4000, 1))
    found = [word for word in words("people_spare") + words("cities_spare") if word in text]
    assert not found
    assert "Stella" in json.dumps(mixture.conversations(40_000, 2, mixture.LAST_PASS))


def test_every_fact_is_asked_in_every_way() -> None:
    examples = mixture.conversations(2000, 1)
    asked = {example["messages"][0]["content"] for example in examples}
    assert all(question in asked for fact in knowledge().facts for question in fact.questions)


def test_turns_alternate_and_every_call_has_its_result() -> None:
    for example in mixture.conversations(3000, 2):
        roles = [message["role"] for message in example["messages"]]
        turns = roles[1:] if roles[0] == "system" else roles
        assert turns[0] == "user"
        assert turns[-1] == "assistant"
        for message, following in zip(example["messages"], example["messages"][1:], strict=False):
            assert ("tool_calls" in message) == (following["role"] == "tool")
            for call in message.get("tool_calls", ()):
                offered = {tool["function"]["name"]: tool for tool in example["tools"]}
                schema = offered[call["function"]["name"]]["function"]["parameters"]
                assert set(json.loads(call["function"]["arguments"])) == set(schema["properties"])
