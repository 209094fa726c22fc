"""A conversation as the turns that named templates know: system, then (user | results) and
(assistant | calls) by turns.

OpenAI's message lists are freer than that. Neighbouring messages of one side are one turn: their
texts are joined by a blank line, results of parallel calls by what the family writes between them.
What no named template can say (a system message later on, an assistant's opening) is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

from templates.conversation import ChatMessage, Role, Value
from templates.format import FormatError

BETWEEN_MESSAGES = "\n\n"


class Exchange(Value, frozen=True):
    """What the model is told and what it answers; `answer` is empty in an open exchange."""

    told: tuple[ChatMessage, ...]
    """All of role user, or all of role tool."""
    answer: tuple[ChatMessage, ...] = ()


class Dialogue(Value, frozen=True):
    system: tuple[ChatMessage, ...]
    exchanges: tuple[Exchange, ...]


def read_dialogue(messages: Sequence[ChatMessage]) -> Dialogue:
    start = 0
    while start < len(messages) and messages[start].role in (Role.SYSTEM, Role.DEVELOPER):
        start += 1
    exchanges: list[Exchange] = []
    told: list[ChatMessage] = []
    answer: list[ChatMessage] = []
    for index, message in enumerate(messages[start:], start):
        place = f"messages.{index}.role"
        if message.role in (Role.SYSTEM, Role.DEVELOPER):
            raise FormatError("This chat format takes system messages at the start only.", place)
        if message.role is Role.ASSISTANT:
            if not told:
                raise FormatError(
                    "This chat format needs a user message before the first assistant message.",
                    place,
                )
            answer.append(message)
            continue
        if message.role is Role.TOOL and not (told or answer):
            raise FormatError("A tool message must answer an assistant's tool call.", place)
        if answer:
            exchanges.append(Exchange(tuple(told), tuple(answer)))
            told, answer = [], []
        elif told and told[0].role is not message.role:
            raise FormatError(
                "In this chat format an assistant message must stand between tool and user "
                "messages.",
                place,
            )
        told.append(message)
    if told:
        exchanges.append(Exchange(tuple(told), tuple(answer)))
    if not exchanges:
        raise FormatError("There is no user message.", "messages")
    return Dialogue(tuple(messages[:start]), tuple(exchanges))
