"""Plain text for pretraining: facts as sentences, short stories, and records that repeat.

The repeating records make a small model learn early to find an earlier token and copy what followed
it, on which names, numbers and tool arguments depend later.
"""

from __future__ import annotations

import json
import random

from deploy.model.corpus import dialogue
from deploy.model.corpus.facts import knowledge
from deploy.model.corpus.words import city_name, invented_word, person_name, words


def facts(rng: random.Random) -> str:
    return " ".join(fact.answer for fact in rng.sample(knowledge().facts, 6))


def questions(rng: random.Random) -> str:
    """A quiz, question and answer in turn."""
    lines: list[str] = []
    for fact in rng.sample(knowledge().facts, 5):
        lines += [f"Question: {rng.choice(fact.questions)}", f"Answer: {fact.answer}"]
    return "\n".join(lines)


def story(rng: random.Random) -> str:
    return dialogue.story(rng)["messages"][1]["content"]


def _kind(rng: random.Random) -> tuple[str, ...]:
    """Things of one kind: names, cities, plain words, numbers."""
    draw = rng.random()
    if draw < 0.3:
        return words("people") + words("people_spare")
    if draw < 0.5:
        return words("cities") + words("cities_spare")
    if draw < 0.65:
        return words("things") + words("animals") + words("colours")
    if draw < 0.85:
        return tuple(str(number) for number in range(100))
    return tuple(invented_word(rng) for _ in range(12))


def echo(rng: random.Random) -> str:
    """A few things of one kind, said over and over: the shorter the round, the more of them."""
    kind = _kind(rng)
    line = rng.choice((" ", " ", ", ")).join(rng.choice(kind) for _ in range(rng.randint(1, 7)))
    return rng.choice((" ", ", ", ". ", "\n")).join([line] * rng.randint(3, 6))


def register(rng: random.Random) -> str:
    """Pairs told in one order and asked in another."""
    pairs = [(person_name(rng), city_name(rng)) for _ in range(rng.randint(1, 4))]
    told = [f"{name} lives in {place}." for name, place in pairs]
    rng.shuffle(pairs)
    asked = [f"Where does {name} live? {name} lives in {place}." for name, place in pairs]
    return " ".join(told + asked)


def record(rng: random.Random) -> str:
    """A sentence and the same as JSON."""
    name, place, age = person_name(rng), city_name(rng), rng.randint(1, 99)
    return f"{name} from {place} is {age}.\n" + json.dumps(
        {"name": name, "city": place, "age": age}, ensure_ascii=False
    )


def capitals(rng: random.Random) -> str:
    """The same words in small letters and in capitals."""
    text = rng.choice(knowledge().facts).answer
    return rng.choice((f"{text}\n{text.upper()}", f"{text.upper()}\n{text.lower()}"))


MAKERS = (
    (echo, 0.66),
    (register, 0.12),
    (record, 0.06),
    (capitals, 0.06),
    (questions, 0.04),
    (facts, 0.04),
    (story, 0.02),
)
