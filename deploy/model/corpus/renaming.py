"""Gives the people and cities of a conversation other names, so that copying is what is learnt."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable

from deploy.model.corpus.conversation import Example
from deploy.model.corpus.words import invented_word, words

_RENAMED_SHARE = 0.7
_INVENTED_SHARE = 0.25
_KIND_OF_NAME = {name: kind for kind in ("people", "cities") for name in words(kind)}
del _KIND_OF_NAME["Nice"]  # "Nice to meet you"
_NAME = re.compile(r"\b[A-Z][a-z]+\b")


def renamed(maker: Callable[[random.Random], Example]) -> Callable[[random.Random], Example]:
    """Names are drawn from all lists, the spare ones among them, or made up. A name keeps its new
    one through the whole conversation."""

    def make(rng: random.Random) -> Example:
        example = maker(rng)
        if rng.random() >= _RENAMED_SHARE:
            return example
        chosen: dict[str, str] = {}

        def other(found: re.Match[str]) -> str:
            name = found.group()
            kind = _KIND_OF_NAME.get(name)
            if kind is None:
                return name
            if name not in chosen:
                chosen[name] = _draw(kind, rng)
            return chosen[name]

        return json.loads(_NAME.sub(other, json.dumps(example, ensure_ascii=False)))

    return make


def _draw(kind: str, rng: random.Random) -> str:
    if rng.random() < _INVENTED_SHARE:
        return invented_word(rng).title()
    return rng.choice(words(kind) + words(f"{kind}_spare") * 3)
