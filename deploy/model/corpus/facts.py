"""Facts as questions with answers, read from `facts.yaml`."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

_TABLES = Path(__file__).with_name("facts.yaml")


@dataclass(frozen=True, slots=True)
class Fact:
    questions: tuple[str, ...]
    answer: str
    short: str
    follow_ups: tuple[str, ...] = ()
    """Short questions that mean this fact after a question about another of the same group."""


@dataclass(frozen=True, slots=True)
class Knowledge:
    groups: tuple[tuple[Fact, ...], ...]
    """Facts that answer the same kind of question (all the capitals)."""
    single: tuple[Fact, ...]
    small_talk: tuple[tuple[tuple[str, ...], str], ...]
    unknown: tuple[str, ...]

    @property
    def facts(self) -> tuple[Fact, ...]:
        return tuple(fact for group in self.groups for fact in group) + self.single


def with_articles(text: str) -> str:
    """`a owl` as `an owl`."""
    return re.sub(r"\b([Aa]) (?=[aeio])", r"\1n ", text)


def _sentence(text: str) -> str:
    return with_articles(text[:1].upper() + text[1:])


def _group(spec: dict[str, Any], rows: list[list[str]]) -> tuple[Fact, ...]:
    return tuple(
        Fact(
            questions=tuple(_sentence(ask.format(*row)) for ask in spec["ask"]),
            answer=_sentence(spec["answer"].format(*row)),
            short=spec["short"].format(*row),
            follow_ups=tuple(_sentence(ask.format(*row)) for ask in spec.get("follow", ())),
        )
        for row in rows
    )


@cache
def knowledge() -> Knowledge:
    tables = yaml.safe_load(_TABLES.read_text(encoding="utf-8"))
    return Knowledge(
        groups=tuple(
            _group(spec, relation["rows"])
            for relation in tables["relations"].values()
            for spec in relation["groups"]
        ),
        single=tuple(
            Fact(questions=tuple(row["ask"]), answer=row["answer"], short=row["short"])
            for row in tables["facts"]
        ),
        small_talk=tuple((tuple(row["ask"]), row["answer"]) for row in tables["small_talk"]),
        unknown=tuple(tables["unknown_questions"]),
    )


def varied(question: str, rng: random.Random) -> str:
    """The question as people type it: greeted, lower-cased, or without its mark."""
    draw = rng.random()
    if draw < 0.62:
        return question
    if draw < 0.72:
        return question.lower()
    if draw < 0.78:
        return question.rstrip("?.")
    if draw < 0.82:
        return question.rstrip("?.").lower()
    opening = rng.choice(("Hello! ", "Hi, ", "Please tell me: ", "Question: ", "I want to know: "))
    return opening + question
