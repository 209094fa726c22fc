"""What a named template is, as data: the texts around each kind of message.

A slot is a list of elements. Each element is tokenised on its own (the boundaries are part of the
format): literal text with at most one `{{content}}`, a special token of the tokenizer, or the text
of one token. The loader is in `templates.family_file`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from templates.conversation import MediaKind
from templates.format import Segment, TokenizerInfo

CONTENT = "{{content}}"
TURN_INDEX = "{{idx}}"


class SpecialToken(StrEnum):
    BOS = "bos"
    EOS = "eos"


class EosUse(StrEnum):
    """How answers of a family end."""

    WRITTEN = "written"
    """The assistant slot writes the end of the turn."""
    REPLACED = "replaced"
    """As written, and the first stop word stands in for the tokenizer's eos."""
    IMPLIED = "implied"
    """The slot has no end: eos closes the last turn, and is the label where a later turn begins."""


class SystemPlace(StrEnum):
    OWN_TURN = "own_turn"
    FIRST_USER = "first_user"
    """Inside the first user message, ahead of its text (Llama 2, Mistral, Gemma)."""


@dataclass(frozen=True, slots=True)
class Element:
    """`before + content + after`, or only `before`; or a special token of the tokenizer."""

    before: str = ""
    has_content: bool = False
    after: str = ""
    special: SpecialToken | None = None


Slot = tuple[Element, ...]

_LONE_OPENING = re.compile(r"<[|｜]assistant[|｜]>\n?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Thinking:
    """How a reasoning family writes its thoughts: `open + thought + close`, ahead of the answer."""

    open: str
    close: str
    empty: str
    """What an answer without thought begins with."""


@dataclass(frozen=True, slots=True)
class Effort:
    """Levels of reasoning effort that the models themselves know."""

    levels: tuple[str, ...]
    before: str
    """With the level and `after`, stands at the end of the system text."""
    after: str


@dataclass(frozen=True, slots=True)
class Family:
    """One named template."""

    name: str
    prefix: Slot
    system: Slot
    user: Slot
    assistant: Slot
    calls: Slot
    results: Slot
    default_system: str = ""
    stop: tuple[str, ...] = ()
    eos: EosUse = EosUse.WRITTEN
    dialect: str = "default"
    reads: str | None = None
    """The dialect that reads and binds outputs, where it is not the one that writes prompts."""
    tool_list: tuple[str, str] | None = None
    """Texts around a plain JSON list of the tools, where the family does not use its dialect's."""
    results_between: str | None = None
    """Stands between the results of parallel calls; None repeats the whole slot."""
    system_place: SystemPlace = SystemPlace.OWN_TURN
    thinking: Thinking | None = None
    effort: Effort | None = None
    """None: the models think or do not."""
    thought_words: tuple[str, str] = ("<think>\n", "\n</think>\n\n")
    media: dict[MediaKind, str] = field(default_factory=dict[MediaKind, str])
    """What stands for each kind of media the models take: the placeholder token, and the marks that
    the family writes around it."""
    note: str = ""

    def speaking(self, dialect: str) -> Family:
        """The family with tools and calls in another dialect. Calls then stand in the family's
        answers as they are, which is what LLaMA-Factory's `tool_format` does."""
        return replace(self, dialect=dialect, reads=None, tool_list=None, calls=self.assistant)

    @property
    def opening(self) -> str | None:
        """What opens an answer, at the end of the user slot; None where the data do not show it. It
        is what the slot has after the mark that ends other messages too (`<|im_end|>`), or all of
        it where it is one mark that names the assistant."""
        if len(self.user) != 1 or not self.user[0].before:
            return None
        after = self.user[0].after
        ends = [slot[0].after for slot in (self.assistant, self.system) if len(slot) == 1]
        end = next((end for end in ends if end and after.startswith(end)), "")
        opening = after[len(end) :]
        return opening if (end and opening) or _LONE_OPENING.fullmatch(opening) else None

    @property
    def tells_system_anywhere(self) -> bool:
        """A system message is a message of its own, ended as a user's is."""
        if self.opening is None or self.system_place is not SystemPlace.OWN_TURN:
            return False
        slot = self.system
        ends_alike = slot[-1].after + self.opening == self.user[0].after
        return len(slot) == 1 and bool(slot[0].before) and ends_alike


def fill(
    slot: Slot, content: Sequence[Segment], tokenizer: TokenizerInfo, eos: str | None, turn: int = 0
) -> list[Segment]:
    """The slot's segments; every element starts a new run."""
    segments: list[Segment] = []
    for element in slot:
        if element.special is not None:
            text = tokenizer.bos_token if element.special is SpecialToken.BOS else eos
            if text:
                segments.append(Segment(text, control=True, joined=False))
            continue
        run = [Segment(element.before.replace(TURN_INDEX, str(turn)), control=True)]
        if element.has_content:
            run += content
            run.append(Segment(element.after.replace(TURN_INDEX, str(turn)), control=True))
        segments += start_run(run)
    return segments


def start_run(segments: Sequence[Segment]) -> list[Segment]:
    """The segments as a run of their own, empty ones left out."""
    run = [segment for segment in segments if segment.text or segment.media is not None]
    if run:
        first = run[0]
        run[0] = Segment(first.text, first.control, joined=False, media=first.media)
    return run
