"""A conversation as the turns that named templates know: system, then (user | results) and
(assistant | calls) by turns.

OpenAI's message lists are freer than that. Neighbouring messages of one role are one text: joined
by a blank line, results of parallel calls by what the family writes between them. Neighbours of
several roles ahead of one answer (a user message after a tool's result, a system message later on)
are told one after the other, where the family's data allow it (see `Family.opening`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from templates.conversation import ChatMessage, Role, Value
from templates.format import FormatError

BETWEEN_MESSAGES = "\n\n"


class Told(Value, frozen=True):
    """Neighbouring messages of one role: user, tool, or system (which developer messages are)."""

    role: Role
    messages: tuple[ChatMessage, ...]
    place: str
    """The request field of the first one."""


class Exchange(Value, frozen=True):
    """What the model is told and what it answers; `answer` is empty in an open exchange."""

    told: tuple[Told, ...]
    answer: tuple[ChatMessage, ...] = ()


class Dialogue(Value, frozen=True):
    system: tuple[ChatMessage, ...]
    exchanges: tuple[Exchange, ...]


class _Neighbours(NamedTuple):
    """What becomes a `Told` once no more of it can come."""

    role: Role
    messages: list[ChatMessage]
    place: str


def _exchange(told: list[_Neighbours], answer: list[ChatMessage]) -> Exchange:
    closed = tuple(Told(one.role, tuple(one.messages), one.place) for one in told)
    return Exchange(closed, tuple(answer))


def read_dialogue(messages: Sequence[ChatMessage]) -> Dialogue:
    start = 0
    while start < len(messages) and messages[start].role in (Role.SYSTEM, Role.DEVELOPER):
        start += 1
    exchanges: list[Exchange] = []
    told: list[_Neighbours] = []
    answer: list[ChatMessage] = []
    for index, message in enumerate(messages[start:], start):
        place = f"messages.{index}.role"
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
            exchanges.append(_exchange(told, answer))
            told, answer = [], []
        role = Role.SYSTEM if message.role is Role.DEVELOPER else message.role
        if role is Role.TOOL and told and told[-1].role is not Role.TOOL:
            raise FormatError("A tool message must answer an assistant's tool call.", place)
        if told and told[-1].role is role:
            told[-1].messages.append(message)
        else:
            told.append(_Neighbours(role, [message], place))
    if told:
        exchanges.append(_exchange(told, answer))
    if not exchanges:
        raise FormatError("There is no user message.", "messages")
    return Dialogue(tuple(messages[:start]), tuple(exchanges))
