"""The parts of a named template's rendering: what its slots make of messages, tools and calls."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from templates.conversation import (
    ChatMessage,
    Conversation,
    MediaPart,
    RenderOptions,
    Role,
    TextPart,
    Tool,
    ToolCall,
)
from templates.dialects.base import Dialect, arguments_of, declaration, to_json
from templates.dialogue import BETWEEN_MESSAGES, Exchange, Told
from templates.family import Family, SystemPlace, fill
from templates.format import FormatError, Segment, TokenizerInfo
from templates.shield import Shielding, shield_for


class FamilySlots:
    def __init__(
        self, family: Family, dialect: Dialect, tokenizer: TokenizerInfo, eos: str | None
    ) -> None:
        self._family = family
        self._dialect = dialect
        self._tokenizer = tokenizer
        self._eos = eos
        self._shield = shield_for(tokenizer.special_tokens)

    def opening(self) -> list[Segment]:
        return fill(self._family.prefix, (), self._tokenizer, self._eos)

    def fill(self, slot: str, content: Sequence[Segment], index: int = 0) -> list[Segment]:
        return fill(getattr(self._family, slot), content, self._tokenizer, self._eos, index)

    def told(
        self,
        exchange: Exchange,
        conversation: Conversation,
        system: Sequence[ChatMessage],
        index: int,
    ) -> list[Segment]:
        lead = self._system(system, conversation) if index == 0 else []
        for told in exchange.told:
            if told.role is Role.SYSTEM and not self._family.tells_system_anywhere:
                raise FormatError(
                    f"The chat format {self._family.name} takes system messages at the start only.",
                    told.place,
                )
        *before, last = exchange.told
        segments: list[Segment] = []
        for told in before:
            segments += self._unopened(self._message(told, lead, index), told)
            lead = []
        if last.role is Role.SYSTEM:
            opening = Segment(self._family.opening or "", control=True)
            return [*segments, *self._message(last, lead, index), opening]
        return [*segments, *self._message(last, lead, index)]

    def _message(self, told: Told, lead: list[Segment], index: int) -> list[Segment]:
        """`lead` is what the system slot gives, ahead of the first user message or inside it."""
        if told.role is Role.TOOL:
            return [*lead, *self._results(told.messages, index)]
        content = self._contents(told.messages)
        if told.role is Role.SYSTEM:
            return self.fill("system", content, index)
        if lead and self._family.system_place is SystemPlace.FIRST_USER:
            return self.fill("user", [*map(_joined, lead), *content], index)
        return [*lead, *self.fill("user", content, index)]

    def _unopened(self, message: list[Segment], told: Told) -> list[Segment]:
        """The message without the opening of an answer, as another message follows."""
        opening, last = self._family.opening, message[-1]
        if told.role is Role.SYSTEM:
            return message
        if opening is None or not last.control or not last.text.endswith(opening):
            raise FormatError(
                f"In the chat format {self._family.name} an assistant message must follow here.",
                told.place,
            )
        cut = replace(last, text=last.text.removesuffix(opening))
        return [*message[:-1], cut] if cut.text else message[:-1]

    def _system(self, messages: Sequence[ChatMessage], conversation: Conversation) -> list[Segment]:
        default, tools = self._family.default_system, conversation.tools
        effort = self._effort_line(conversation.options)
        if not (messages or default or tools or effort):
            return []
        content = self._contents(messages)
        if not any(segment.text for segment in content):
            content = [Segment(default, control=True)] if default else []
        content += [Segment(effort, control=True)] if effort else []
        if tools:
            content = [*content, *self._tool_list(tools)]
        if not content:
            return []
        slot = self._family.system
        if self._family.system_place is SystemPlace.FIRST_USER:
            slot = slot[:1]
        return fill(slot, content, self._tokenizer, self._eos)

    def _effort_line(self, options: RenderOptions) -> str:
        effort, level = self._family.effort, options.reasoning_effort
        if effort is None or level not in effort.levels:
            return ""
        return f"{effort.before}{level}{effort.after}"

    def _tool_list(self, tools: tuple[Tool, ...]) -> list[Segment]:
        plain = self._tool_text(tools)
        if not any(self._shield.spells_in([t.name, t.description, t.parameters]) for t in tools):
            return [Segment(plain, control=True)]
        shielding = Shielding(self._shield)
        hidden = tuple(
            replace(
                tool,
                name=shielding.protect(tool.name),
                description=shielding.protect_value(tool.description),
                parameters=shielding.protect_value(tool.parameters),
            )
            for tool in tools
        )
        return list(shielding.split(self._tool_text(hidden), plain))

    def _tool_text(self, tools: tuple[Tool, ...]) -> str:
        if self._family.tool_list is None:
            return self._dialect.tool_text(tools)
        before, after = self._family.tool_list
        return f"{before}{to_json([declaration(tool) for tool in tools])}{after}"

    def _results(self, messages: Sequence[ChatMessage], index: int) -> list[Segment]:
        between = self._family.results_between
        if between is None:
            each = (self.fill("results", self.content(m), index) for m in messages)
            return [segment for segments in each for segment in segments]
        return self.fill("results", self._contents(messages, between, control=True), index)

    def call_list(self, calls: tuple[ToolCall, ...]) -> list[Segment]:
        """Arguments are guarded as they read, not as JSON spells them: an escape may hide a word
        (`\\u003c|im_end|>`) that stands plainly in what the dialect writes."""
        plain = self._dialect.call_text(calls)
        given = [(call, arguments_of(call)) for call in calls]
        if not any(self._shield.spells_in([c.name, c.id or "", values]) for c, values in given):
            return [Segment(plain, control=True)]
        shielding = Shielding(self._shield)
        hidden = tuple(
            replace(
                call,
                name=shielding.protect(call.name),
                arguments=to_json(shielding.protect_value(values)),
                id=None if call.id is None else shielding.protect(call.id),
            )
            for call, values in given
        )
        return list(shielding.split(self._dialect.call_text(hidden), plain))

    def _contents(
        self,
        messages: Sequence[ChatMessage],
        between: str = BETWEEN_MESSAGES,
        control: bool = False,
    ) -> list[Segment]:
        content: list[Segment] = []
        for number, message in enumerate(messages):
            if number:
                content.append(Segment(between, control=control))
            content += self.content(message)
        return content

    def content(self, message: ChatMessage) -> list[Segment]:
        parts = message.parts
        if len(parts) == 1 and isinstance(parts[0], TextPart):
            return [Segment(parts[0].text, control=False)]
        if not any(isinstance(part, MediaPart) for part in parts):
            return [Segment(message.text, control=False)]
        segments: list[Segment] = []
        for part in message.parts:
            if isinstance(part, MediaPart):
                token = self._family.media.get(part.kind)
                if token is None:
                    raise FormatError(
                        f"The chat format {self._family.name} takes no {part.kind} input.",
                        part.place or "messages",
                    )
                segments.append(Segment(token, control=True, media=part))
            else:
                segments.append(Segment(part.text, control=False))
        return segments


def _joined(segment: Segment) -> Segment:
    return segment if segment.joined else replace(segment, joined=True)
