"""Where a reasoning family keeps, drops and writes thoughts, given the options of a rendering."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from msgspec.structs import replace

from templates.conversation import ChatMessage, RenderOptions, TextPart
from templates.effort import EFFORTS_OFF, wants_thinking
from templates.family import Family
from templates.format import FormatError


@dataclass(frozen=True, slots=True)
class Thoughts:
    in_answer: bool
    """A trained answer keeps its thought."""
    in_history: bool
    """Answers of earlier turns keep theirs in a prompt."""
    empty_in_prompt: bool
    """The empty thought of an answer without one belongs to the prompt, outside the loss."""


def thinks(family: Family, options: RenderOptions) -> Thoughts:
    """Raises FormatError for what the family cannot honour."""
    enabled = _enabled(family, options)
    if family.thinking is None:
        return Thoughts(in_answer=True, in_history=True, empty_in_prompt=False)
    preserve = bool(options.preserve_thinking) or options.prefer_thoughts
    keep = enabled or options.keep_given_thoughts
    return Thoughts(in_answer=keep, in_history=preserve, empty_in_prompt=not enabled)


def _enabled(family: Family, options: RenderOptions) -> bool:
    wanted = wants_thinking(options)
    effort = options.reasoning_effort
    if family.thinking is None:
        if wanted:
            field = "enable_thinking" if options.enable_thinking else "reasoning_effort"
            raise FormatError(f"The chat format {family.name} has no thinking.", field)
        return True
    if effort is not None and wanted and family.effort and effort not in family.effort.levels:
        raise FormatError(
            f"The chat format {family.name} cannot honour reasoning_effort '{effort}'; it takes: "
            f"{', '.join((*sorted(EFFORTS_OFF), *family.effort.levels))}.",
            "reasoning_effort",
        )
    return wanted is not False


def split_thought(
    family: Family, message: ChatMessage, dropped: bool = False
) -> tuple[str | None, ChatMessage]:
    """The thought of an assistant message, and the message without it. A text that begins with a
    thought in the family's words has it there: datasets and many clients write it so. A family that
    drops thoughts drops the line breaks ahead of the answer with them, thought or not."""
    if message.reasoning is not None:
        return message.reasoning, message
    if not message.parts or not isinstance(message.parts[0], TextPart):
        return None, message
    pattern = _thought_pattern(family.thought_words, lenient=family.thinking is not None)
    given = message.parts[0].text
    found = pattern.match(given)
    said = given if found is None else found["rest"]
    if dropped and family.thinking is not None:
        said = said.lstrip("\n")
    if said != given:
        message = replace(message, parts=(TextPart(said), *message.parts[1:]))
    return None if found is None else found["thought"], message


@lru_cache(maxsize=64)
def _thought_pattern(words: tuple[str, str], lenient: bool) -> re.Pattern[str]:
    """Lenient: the white space that belongs to the words may be missing from what was written."""
    thought, rest = "(?P<thought>.*?)", "(?P<rest>.*)"
    if not lenient:
        opening, closing = map(re.escape, words)
        return re.compile(f"{opening}{thought}{closing}{rest}", re.DOTALL)
    opening, closing = (
        f"{_edge(word, 0)}{re.escape(word.strip())}{_edge(word, 1)}" for word in words
    )
    return re.compile(f"\\s*{opening}{thought}{closing}{rest}", re.DOTALL)


def _edge(word: str, side: int) -> str:
    blank = word[len(word.rstrip()) :] if side else word[: len(word) - len(word.lstrip())]
    return f"(?:{re.escape(blank)})?"
