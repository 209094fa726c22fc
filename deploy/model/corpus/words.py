"""Names, cities and made-up words that fill the templates; the lists are in `words.yaml`."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

import yaml

_LISTS = Path(__file__).with_name("words.yaml")
_INVENTED_SHARE = 0.08


@cache
def words(kind: str) -> tuple[str, ...]:
    """The list called `kind`."""
    return tuple(yaml.safe_load(_LISTS.read_text(encoding="utf-8"))[kind].split())


def invented_word(rng: random.Random) -> str:
    """A word of no language, one to three syllables: only copying can reproduce it."""
    return "".join(
        rng.choice(words("onsets"))
        + rng.choice(words("vowels"))
        + rng.choice(words("codas")).strip("-")
        for _ in range(rng.choice((1, 2, 2, 3)))
    )


def person_name(rng: random.Random) -> str:
    return _name("people", rng)


def city_name(rng: random.Random) -> str:
    return _name("cities", rng)


def _name(kind: str, rng: random.Random) -> str:
    if rng.random() < _INVENTED_SHARE:
        return invented_word(rng).title()
    return rng.choice(words(kind))
