"""Conversations that teach obedience: system prompts on form, role and knowledge, and copying."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from deploy.model.corpus.conversation import Example, exchange
from deploy.model.corpus.facts import Fact, knowledge, varied
from deploy.model.corpus.words import city_name, invented_word, person_name, words

Style = tuple[str, Callable[[Fact], str]]

_ENDINGS = ("Over.", "Amen.", "Ahoy!", "Meow!", "Okay?", "Thank you.", "The end.", "Yes, sir.")


def _marker(rng: random.Random) -> str:
    draw = rng.random()
    if draw < 0.4:
        return rng.choice(_ENDINGS)
    word = invented_word(rng) if draw < 0.5 else rng.choice(words("things") + words("animals"))
    return word.title() + rng.choice("!.?")


def _ending(rng: random.Random) -> Style:
    mark = _marker(rng)
    ask = rng.choice(
        (
            "End every answer with '{}'",
            "Always end with '{}'",
            "Finish each answer with '{}'",
            "Always end your answer with '{}'",
        )
    )
    return ask.format(mark), lambda fact: f"{fact.answer} {mark}"


def _opening(rng: random.Random) -> Style:
    mark = _marker(rng)
    ask = rng.choice(("Start every answer with '{}'", "Begin each answer with '{}'"))
    return ask.format(mark), lambda fact: f"{mark} {fact.answer}"


def _capitals(rng: random.Random) -> Style:
    ask = rng.choice(
        (
            "Answer in capital letters.",
            "Answer in capitals.",
            "Write everything in capital letters.",
            "Always answer in upper case.",
        )
    )
    return ask, lambda fact: fact.answer.upper()


def _lower_case(rng: random.Random) -> Style:
    ask = rng.choice(("Answer in small letters.", "Always answer in lower case."))
    return ask, lambda fact: fact.answer.lower()


def _one_word(rng: random.Random) -> Style:
    ask = rng.choice(
        (
            "Answer in one word.",
            "Answer with one word.",
            "Give the answer only.",
            "Be as short as you can.",
            "Answer in one word only.",
        )
    )
    return ask, lambda fact: fact.short


def _as_json(rng: random.Random) -> Style:
    ask = rng.choice(("Answer in JSON.", "Answer with a JSON object.", "Reply in JSON only."))
    return ask, lambda fact: json.dumps({"answer": fact.short}, ensure_ascii=False)


def _plain(rng: random.Random) -> Style:
    ask = rng.choice(
        (
            "You are a helpful assistant.",
            "You are helpful.",
            "Answer the question.",
            "Be polite.",
            "You are a friendly assistant.",
            "You answer questions.",
        )
    )
    return ask, lambda fact: fact.answer


_STYLES = (_ending, _ending, _opening, *[_capitals] * 4, _lower_case, _one_word, _one_word)


def answer_in_style(rng: random.Random) -> Example:
    draw = rng.random()
    make = _as_json if draw < 0.08 else _plain if draw < 0.2 else rng.choice(_STYLES)
    system, form = make(rng)
    if make is not _plain and rng.random() < 0.3:
        system = f"{_plain(rng)[0]} {system}"
    facts = knowledge().facts
    fact = rng.choice(facts)
    texts = [varied(rng.choice(fact.questions), rng), form(fact)]
    if rng.random() < 0.25:
        other = rng.choice(facts)
        texts += [rng.choice(other.questions), form(other)]
    return exchange(*texts, system=system)


def persona(rng: random.Random) -> Example:
    """A name, a job and a place to speak from; the answer copies from the system prompt."""
    name, job, place = person_name(rng), rng.choice(words("jobs")), city_name(rng)
    system = rng.choice(
        (
            f"You are {name}, a {job} from {place}.",
            f"You are {name}. You are a {job}. You live in {place}.",
            f"Your name is {name}. You work as a {job} in {place}.",
            f"You are {name}, a {job}. Your home is {place}.",
        )
    )
    pairs = [
        (("What is your name?", "Who are you?", "What are you called?"), f"I am {name}."),
        (("What do you do?", "What is your job?"), f"I am a {job}."),
        (("Where do you live?", "Where are you from?"), f"I am from {place}."),
    ]
    if rng.random() < 0.35:
        system = rng.choice((f"You are {name}.", f"Your name is {name}."))
        pairs = pairs[:1]
    rng.shuffle(pairs)
    texts: list[str] = []
    for asks, answer in pairs[: rng.choice((1, 1, 2))]:
        texts += [varied(rng.choice(asks), rng), answer]
    return exchange(*texts, system=system)


def told_in_context(rng: random.Random) -> Example:
    """A question whose answer stands in the system prompt."""
    name, place = person_name(rng), city_name(rng)
    word = rng.choice((rng.choice(words("things")), invented_word(rng)))
    thing, number = rng.choice(words("things")), rng.randint(2, 99)
    cases = (
        (f"The secret word is {word}.", "What is the secret word?", f"The secret word is {word}."),
        (f"The password is {word}.", "What is the password?", f"The password is {word}."),
        (f"A {thing} costs {number} euros.", f"How much does a {thing} cost?",
         f"A {thing} costs {number} euros."),
        (f"The shop opens at {number % 12 + 1} o'clock.", "When does the shop open?",
         f"The shop opens at {number % 12 + 1} o'clock."),
        (f"The user is called {name}.", "What is my name?", f"Your name is {name}."),
        (f"The boss is {name}.", "Who is the boss?", f"The boss is {name}."),
        (f"The office is in {place}.", "Where is the office?", f"The office is in {place}."),
        (f"The meeting is in room {number}.", "Where is the meeting?",
         f"The meeting is in room {number}."),
    )  # fmt: skip
    chosen = rng.sample(cases, rng.choice((1, 1, 2)))
    asked = rng.choice(chosen)
    return exchange(varied(asked[1], rng), asked[2], system=" ".join(case[0] for case in chosen))


def fixed_reply(rng: random.Random) -> Example:
    kind = words(rng.choice(("things", "animals", "people", "cities")))
    reply = " ".join(rng.choice(kind) for _ in range(rng.choice((1, 1, 2, 3))))
    reply = rng.choice((reply, reply.title() + rng.choice("!.")))
    system = rng.choice(("Only say '{}'", "Always answer '{}'", "Reply to everything with '{}'"))
    question = rng.choice(rng.choice(knowledge().facts).questions)
    return exchange(varied(question, rng), reply, system=system.format(reply))


def repeat(rng: random.Random) -> Example:
    pool = (words("things"), words("animals"), words("people"), words("cities"))
    length = rng.choice((1, 2, 3, 3, 4, 5))
    text = " ".join(
        invented_word(rng) if rng.random() < 0.1 else rng.choice(rng.choice(pool))
        for _ in range(length)
    )
    ask = rng.choice(
        ("Repeat after me: {}", "Say: {}", "Repeat: {}", "Please repeat: {}", "Say {}")
    )
    return exchange(ask.format(text), text)


def spell(rng: random.Random) -> Example:
    word = rng.choice(words("things") + words("animals") + words("colours"))
    ask = rng.choice(("Spell {}.", "How do you spell {}?", "Spell the word {}."))
    return exchange(varied(ask.format(word), rng), "-".join(word.upper()))
