"""Training turns from a model's own template: what was the prompt, what the answer.

By `{% generation %}` where the template has it, once for each answer. Otherwise by prefixes: the
prompt of each answer is rendered as it would be served, and must be how the rendering of the whole
conversation begins. Where it is not (the template drops thoughts of earlier turns, say), no one
sequence holds every answer in the context it is served in; that is refused with the reason. The
last turn alone can still be trained.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from msgspec.structs import replace

from templates.conversation import Conversation, Role
from templates.format import FormatError, Segment, TrainingTurn
from templates.shield import Shielding


class RenderText(Protocol):
    def __call__(
        self,
        conversation: Conversation,
        generate: bool,
        shielding: Shielding | None = None,
        *,
        marks: tuple[str, str] | None = None,
    ) -> str: ...


@dataclass(frozen=True, slots=True)
class _Cut:
    """Texts of a rendering, by turns: context, then the answer."""

    prompt: str
    response: str


def turns_by_marks(
    conversation: Conversation, render: RenderText, shielding: Shielding | None
) -> tuple[TrainingTurn, ...]:
    marks = (f"a{secrets.token_hex(8)}b", f"c{secrets.token_hex(8)}d")
    plain = _cuts_by_marks(render(conversation, False, marks=marks), marks)
    shielded = plain
    if shielding is not None:
        shielded = _cuts_by_marks(render(conversation, False, shielding, marks=marks), marks)
    answers = [m for m in conversation.messages if m.role is Role.ASSISTANT]
    if len(plain) - 1 != len(answers) or len(shielded) != len(plain):
        return turns_by_prefixes(conversation, render, shielding, last_turn_only=False)
    trained = [message.weight != 0 for message in answers] + [False]
    turns = _turns(plain, shielded, trained, shielding)
    return turns if plain[-1].prompt else turns[:-1]


def _cuts_by_marks(text: str, marks: tuple[str, str]) -> list[_Cut]:
    cuts: list[_Cut] = []
    before, found, rest = text.partition(marks[0])
    while found:
        answer, _, rest = rest.partition(marks[1])
        cuts.append(_Cut(before, answer))
        before, found, rest = rest.partition(marks[0])
    return [*cuts, _Cut(before, "")]


def turns_by_prefixes(
    conversation: Conversation,
    render: RenderText,
    shielding: Shielding | None,
    last_turn_only: bool,
) -> tuple[TrainingTurn, ...]:
    plain = list(_cuts_by_prefixes(conversation, render, None, last_turn_only))
    shielded = plain
    if shielding is not None:
        shielded = list(_cuts_by_prefixes(conversation, render, shielding, last_turn_only))
    answers = [m for m in conversation.messages if m.role is Role.ASSISTANT]
    trained = [message.weight != 0 for message in answers[-len(plain) :]]
    return _turns(plain, shielded, trained, shielding)


def _cuts_by_prefixes(
    conversation: Conversation,
    render: RenderText,
    shielding: Shielding | None,
    last_turn_only: bool,
) -> Iterator[_Cut]:
    messages = conversation.messages
    whole = render(conversation, False, shielding)
    answers = [i for i, m in enumerate(messages) if m.role is Role.ASSISTANT]
    position = 0
    for number, index in enumerate(answers[-1:] if last_turn_only else answers, 1):
        context = replace(conversation, messages=messages[:index])
        prompt = render(context, True, shielding)
        told = replace(conversation, messages=messages[: index + 1])
        answered = whole if index == len(messages) - 1 else render(told, False, shielding)
        if not answered.startswith(prompt) or len(prompt) < position:
            raise FormatError(
                f"The chat template does not write answer {number} as a continuation of the prompt "
                "it is served with, so it cannot be trained on with this template.",
                "messages",
            )
        if not whole.startswith(answered):
            raise FormatError(
                f"The chat template writes answer {number} differently once other turns follow, so "
                "one example cannot hold the conversation as it is served; train each turn, or the "
                "last turn, on its own.",
                "messages",
            )
        yield _Cut(whole[position : len(prompt)], whole[len(prompt) : len(answered)])
        position = len(answered)


def _turns(
    plain: list[_Cut], shielded: list[_Cut], trained: list[bool], shielding: Shielding | None
) -> tuple[TrainingTurn, ...]:
    return tuple(
        TrainingTurn(
            _segments(guarded.prompt, cut.prompt, shielding),
            _segments(guarded.response, cut.response, shielding),
            trains,
        )
        for cut, guarded, trains in zip(plain, shielded, trained, strict=True)
    )


def _segments(guarded: str, plain: str, shielding: Shielding | None) -> tuple[Segment, ...]:
    if shielding is None:
        return (Segment(plain, control=True),) if plain else ()
    return shielding.split(guarded, plain)
