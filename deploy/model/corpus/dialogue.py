"""Plain talk: facts in a row, memory over turns, small sums, stories, and not knowing."""

from __future__ import annotations

import random

from deploy.model.corpus.conversation import Example, exchange
from deploy.model.corpus.facts import knowledge, varied, with_articles
from deploy.model.corpus.words import city_name, invented_word, person_name, words

DO_NOT_KNOW = "I am sorry, I do not know that."


def one_fact(rng: random.Random) -> Example:
    known = knowledge()
    # Single facts share no pattern with others, so each must be seen more often than a table's row.
    fact = rng.choice(known.single if rng.random() < 0.42 else known.facts)
    return exchange(varied(rng.choice(fact.questions), rng), fact.answer)


def small_talk(rng: random.Random) -> Example:
    asks, answer = rng.choice(knowledge().small_talk)
    texts = [rng.choice(asks), answer]
    if rng.random() < 0.3:
        fact = rng.choice(knowledge().facts)
        texts += [varied(rng.choice(fact.questions), rng), fact.answer]
    return exchange(*texts)


def follow_up(rng: random.Random) -> Example:
    """ "And of Italy?" after a question about France."""
    groups = [group for group in knowledge().groups if group[0].follow_ups]
    first, *others = rng.sample(rng.choice(groups), rng.choice((2, 2, 3)))
    texts = [varied(rng.choice(first.questions), rng), first.answer]
    for fact in others:
        texts += [varied(rng.choice(fact.follow_ups), rng), fact.answer]
    return exchange(*texts)


def two_facts(rng: random.Random) -> Example:
    texts: list[str] = []
    for fact in rng.sample(knowledge().facts, 2):
        texts += [varied(rng.choice(fact.questions), rng), fact.answer]
    if rng.random() < 0.3:
        texts += [rng.choice(("Thanks!", "Thank you.")), "You are welcome!"]
    return exchange(*texts)


def _told(rng: random.Random) -> tuple[tuple[str, ...], str, tuple[str, ...], str]:
    """What the user says of themselves, the polite answer, the later question and its answer."""
    name, place, pet = person_name(rng), city_name(rng), person_name(rng)
    animal, colour = rng.choice(words("animals")), rng.choice(words("colours"))
    food, job, age = rng.choice(words("foods")), rng.choice(words("jobs")), rng.randint(5, 95)
    return rng.choice(
        (
            ((f"My name is {name}.", f"I am {name}.", f"Hello, my name is {name}.",
              f"Hi, I am {name}.", f"Call me {name}."),
             f"Nice to meet you, {name}!",
             ("What is my name?", "Do you know my name?", "Who am I?"), f"Your name is {name}."),
            ((f"My name is {name}.", f"I am {name}.", f"Hello, my name is {name}.",
              f"Hi! My name is {name}."),
             f"Nice to meet you, {name}!",
             ("What is my name?", "Do you remember my name?"), f"Your name is {name}."),
            ((f"I live in {place}.", f"I am from {place}.", f"My home is {place}."),
             f"{place} sounds nice!",
             ("Where do I live?", "Where am I from?", "Where is my home?"),
             f"You live in {place}."),
            ((f"I have a {animal} called {pet}.", f"My {animal} is called {pet}."),
             f"{pet} is a nice name for a {animal}!",
             (f"What is my {animal} called?", f"What is the name of my {animal}?"),
             f"Your {animal} is called {pet}."),
            ((f"My favourite colour is {colour}.", f"I like {colour} best."),
             f"I like {colour} too!",
             ("What is my favourite colour?", "Which colour do I like?"),
             f"Your favourite colour is {colour}."),
            ((f"My favourite food is {food}.", f"I love to eat {food}."),
             f"I hear that {food} is very good!",
             ("What is my favourite food?", "What do I like to eat?"),
             f"Your favourite food is {food}."),
            ((f"I am {age} years old.", f"I am {age}."), f"{age} is a good age!",
             ("How old am I?", "What is my age?"), f"You are {age} years old."),
            ((f"I am a {job}.", f"I work as a {job}."), "That is a good job!",
             ("What is my job?", "What do I do?"), f"You are a {job}."),
        )
    )  # fmt: skip


def remember(rng: random.Random) -> Example:
    """One or two things told, perhaps a fact between, then asked for."""
    statements, reply, questions, answer = _told(rng)
    texts = [with_articles(rng.choice(statements)), with_articles(reply)]
    if rng.random() < 0.25:
        other = _told(rng)
        if other[2] != questions:
            texts += [rng.choice(other[0]), other[1]]
    if rng.random() < 0.3:
        fact = rng.choice(knowledge().facts)
        texts += [rng.choice(fact.questions), fact.answer]
    texts += [varied(rng.choice(questions), rng), answer]
    return exchange(*texts)


def not_told(rng: random.Random) -> Example:
    question, answer = rng.choice(
        (
            ("What is my name?", "I do not know your name yet."),
            ("Where do I live?", "I do not know where you live."),
            ("How old am I?", "I do not know how old you are."),
            ("What is my favourite colour?", "I do not know your favourite colour."),
        )
    )
    return exchange(varied(question, rng), answer)


def again(rng: random.Random) -> Example:
    """The last answer once more, or in capitals."""
    fact = rng.choice(knowledge().facts)
    request, second = rng.choice(
        (
            ("Say that again.", fact.answer),
            ("Please repeat that.", fact.answer),
            ("Say it in capital letters.", fact.answer.upper()),
            ("In one word, please.", fact.short),
            ("What did I ask?", ""),
        )
    )
    question = rng.choice(fact.questions)
    return exchange(question, fact.answer, request, second or f'You asked: "{question}"')


def sums(rng: random.Random) -> Example:
    a, b = rng.randint(0, 10), rng.randint(0, 10)
    if rng.random() < 0.3:
        a, b = max(a, b), min(a, b)
        ask, answer = (
            rng.choice(("What is {} - {}?", "What is {} minus {}?")),
            f"{a} - {b} = {a - b}",
        )
    else:
        asks = ("What is {} + {}?", "What is {} plus {}?", "Add {} and {}.")
        ask, answer = rng.choice(asks), f"{a} + {b} = {a + b}"
    return exchange(varied(ask.format(a, b), rng), answer)


def count(rng: random.Random) -> Example:
    start = rng.choice((1, 1, rng.randint(1, 15)))
    end = start + rng.randint(2, 9)
    numbers = ", ".join(str(number) for number in range(start, end + 1))
    return exchange(varied(f"Count from {start} to {end}.", rng), numbers)


def story(rng: random.Random) -> Example:
    animal, other = rng.sample(words("animals"), 2)
    name, place, thing = person_name(rng), city_name(rng), rng.choice(words("things"))
    ask = rng.choice(
        (
            "Tell me a story about a {}.",
            "Write a short story about a {}.",
            "A story about a {}, please.",
        )
    )
    text = " ".join(
        (
            f"Once there was a {animal} called {name}.",
            rng.choice((f"{name} lived in {place}.", f"One day {name} went to {place}.")),
            rng.choice(
                (f"There {name} found a {thing}.", f"There {name} met a {other} with a {thing}.")
            ),
            rng.choice(
                (
                    "They were friends from that day.",
                    f"{name} took the {thing} home and was happy.",
                )
            ),
        )
    )
    return exchange(varied(with_articles(ask.format(animal)), rng), with_articles(text))


def unknown(rng: random.Random) -> Example:
    """Questions about what does not exist or was never told."""
    question = rng.choice(knowledge().unknown).format(
        place=f"{invented_word(rng).title()}"
        + rng.choice(("", "", " " + invented_word(rng).title())),
        person=person_name(rng),
        word=invented_word(rng),
    )
    return exchange(varied(question, rng), DO_NOT_KNOW)
