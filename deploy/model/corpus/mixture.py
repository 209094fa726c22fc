"""Draws the training text: documents for pretraining, conversations for fine-tuning."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from deploy.model.corpus import dialogue, instructions, prose, tools
from deploy.model.corpus.conversation import Example
from deploy.model.corpus.facts import knowledge
from deploy.model.corpus.renaming import renamed
from deploy.model.corpus.words import words

_T = TypeVar("_T")
Maker = Callable[[random.Random], _T]

CONVERSATIONS: tuple[tuple[Maker[Example], float], ...] = (
    (dialogue.one_fact, 0.2),
    (dialogue.two_facts, 0.05),
    (dialogue.follow_up, 0.06),
    (dialogue.small_talk, 0.04),
    (dialogue.remember, 0.11),
    (dialogue.not_told, 0.01),
    (dialogue.again, 0.03),
    (dialogue.sums, 0.04),
    (dialogue.count, 0.01),
    (dialogue.story, 0.02),
    (dialogue.unknown, 0.06),
    (instructions.answer_in_style, 0.17),
    (instructions.persona, 0.05),
    (instructions.told_in_context, 0.04),
    (instructions.fixed_reply, 0.02),
    (instructions.repeat, 0.04),
    (instructions.spell, 0.01),
    (tools.with_tools, 0.065),
    (tools.no_call_needed, 0.02),
    (tools.no_tool, 0.01),
)


def draw(makers: Sequence[tuple[Maker[_T], float]], num: int, seed: int) -> list[_T]:
    """`num` items, each from a maker drawn by weight."""
    rng = random.Random(seed)
    chosen = rng.choices([maker for maker, _ in makers], [weight for _, weight in makers], k=num)
    return [maker(rng) for maker in chosen]


_NAMING = (
    dialogue.remember,
    dialogue.story,
    instructions.persona,
    instructions.told_in_context,
    instructions.repeat,
    tools.with_tools,
)
_LAST_PASS_WEIGHTS = {
    tools.with_tools: 2.5,
    instructions.answer_in_style: 1.5,
    instructions.persona: 1.5,
    dialogue.remember: 1.5,
    dialogue.one_fact: 0.6,
}
LAST_PASS: tuple[tuple[Maker[Example], float], ...] = tuple(
    (renamed(maker) if maker in _NAMING else maker, weight * _LAST_PASS_WEIGHTS.get(maker, 1.0))
    for maker, weight in CONVERSATIONS
)
"""More of what is hardest, with names changed."""


def conversations(
    num: int, seed: int, makers: Sequence[tuple[Maker[Example], float]] = CONVERSATIONS
) -> list[Example]:
    """The first ones are every fact asked in every known way, so that none is left to chance."""
    every = [
        dialogue.exchange(question, fact.answer)
        for fact in knowledge().facts
        for question in fact.questions
    ]
    examples = every + draw(makers, max(0, num - len(every)), seed)
    random.Random(seed).shuffle(examples)
    return examples[:num]


def documents(num: int, seed: int) -> list[dict[str, str]]:
    return [{"text": text} for text in draw(prose.MAKERS, num, seed)]


def tokenizer_texts(num: int, seed: int, chat_template: str) -> Iterable[str]:
    """Training text with the chat format's own words, and facts in every form answers take."""
    for example in conversations(num, seed):
        for message in example["messages"]:
            yield message["content"] or ""
            yield from (json.dumps(call["function"]) for call in message.get("tool_calls", ()))
        yield from (json.dumps(tool) for tool in example.get("tools", ()))
    for row in documents(num // 3, seed):
        yield row["text"]
    for _ in range(40):
        yield chat_template
    kinds = ("people", "people_spare", "cities", "cities_spare", "foods", "things")
    for _ in range(150):
        yield " ".join(" ".join(words(kind)) for kind in kinds)
        yield " ".join(str(number) for number in range(100))
    for fact in knowledge().facts * 15:
        yield from (fact.answer, fact.answer.upper(), fact.answer.lower(), fact.short)


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
