"""A named template as a chat format: LLaMA-Factory's behaviour, from the family's data.

Thinking follows that behaviour too. A reasoning family drops the thoughts of earlier turns from a
generation prompt, keeps every turn's thoughts in a training conversation, and writes an empty
thought before an answer that has none; in the prompt when thinking is off, else in the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from templates.conversation import (
    ChatMessage,
    Conversation,
    MediaPart,
    RenderOptions,
    Role,
    TextPart,
    Tool,
)
from templates.dialects import binding_dialect, dialect
from templates.dialects.base import Dialect, declaration, to_json
from templates.dialogue import BETWEEN_MESSAGES, Exchange, Told, read_dialogue
from templates.effort import thinking_budget
from templates.family import EosUse, Family, SystemPlace, fill, start_run
from templates.format import (
    FormatError,
    OutputConstraint,
    OutputParser,
    Prompt,
    Segment,
    ThinkingBudget,
    TokenizerInfo,
    ToolChoice,
    TrainingTurn,
)
from templates.reasoning import ReasoningParser, ThinkingWords, after_reasoning
from templates.shield import Shielding, shield_for
from templates.thoughts import Thoughts, split_thought, thinks


class NamedFormat:
    def __init__(self, family: Family, tokenizer: TokenizerInfo) -> None:
        self._family = family
        self._tokenizer = tokenizer
        self._dialect = dialect(family.dialect)
        self._reader = dialect(family.reads or family.dialect)
        self._shield = shield_for(tokenizer.special_tokens)
        replaced = family.eos is EosUse.REPLACED
        self._eos = family.stop[0] if replaced else tokenizer.eos_token
        thinking = family.thinking
        self._words: ThinkingWords | None = None
        if thinking is not None and not self._reader.reads_reasoning:
            self._words = ThinkingWords(thinking.open, thinking.close)

    @property
    def name(self) -> str:
        return self._family.name

    @property
    def stop_words(self) -> tuple[str, ...]:
        return self._family.stop

    @property
    def appends_eos(self) -> bool:
        """True where the tokenizer's eos ends an answer but no slot writes it."""
        return self._family.eos is EosUse.IMPLIED

    @property
    def keeps_special_tokens(self) -> bool:
        words = self._family.thought_words if self._family.thinking is not None else ()
        marks = {word.strip() for word in words}
        return self._reader.keeps_special_tokens or not marks.isdisjoint(
            self._tokenizer.special_tokens
        )

    def render(self, conversation: Conversation) -> Prompt:
        options = self._checked(conversation.options)
        thoughts = thinks(self._family, options)
        dialogue = read_dialogue(conversation.messages)
        segments = self._opening()
        opens_reasoning = thought_over = False
        last = len(dialogue.exchanges) - 1
        for index, exchange in enumerate(dialogue.exchanges):
            segments += self._told(exchange, conversation, dialogue.system, index)
            if index < last:
                segments += self._answer(exchange.answer, keep_thought=thoughts.in_history)
            elif exchange.answer:
                continued = self._continued(exchange.answer, options)
                opens_reasoning = continued[1]
                segments += continued[0]
            else:
                segments += self._unsaid_thought(thoughts)
                thought_over = thoughts.empty_in_prompt
        if not dialogue.exchanges[-1].answer and options.continue_final_message:
            raise FormatError(
                "continue_final_message needs a conversation that ends with an assistant message.",
                "continue_final_message",
            )
        return Prompt(tuple(segments), opens_reasoning, thought_over)

    def render_training(
        self, conversation: Conversation, last_turn_only: bool = False
    ) -> tuple[TrainingTurn, ...]:
        options = self._checked(conversation.options)
        thoughts = thinks(self._family, options)
        dialogue = read_dialogue(conversation.messages)
        turns: list[TrainingTurn] = []
        last = len(dialogue.exchanges) - 1
        for index, exchange in enumerate(dialogue.exchanges):
            if not exchange.answer:
                raise FormatError(
                    "A training conversation must end with an assistant message.", "messages"
                )
            prompt = self._opening() if index == 0 else []
            prompt += self._told(exchange, conversation, dialogue.system, index)
            history = last_turn_only and index < last
            keep = thoughts.in_history if history else thoughts.in_answer
            response = self._answer(exchange.answer, keep_thought=keep)
            if not history and not self._has_thought(exchange.answer, keep):
                empty = self._empty_thought()
                prompt += empty if thoughts.empty_in_prompt else []
                response = response if thoughts.empty_in_prompt else [*empty, *response]
            trained = not history and all(message.weight != 0 for message in exchange.answer)
            turns.append(TrainingTurn(tuple(prompt), tuple(response), trained))
        return tuple(turns)

    def thinking_budget(self, conversation: Conversation) -> ThinkingBudget | None:
        options, thinking = conversation.options, self._family.thinking
        own_levels = self._family.effort is not None
        ending = None if thinking is None else thinking.close
        budget = thinking_budget(options, ending, own_levels=own_levels)
        if budget is not None and self._reader.reads_reasoning and conversation.tools:
            raise FormatError(
                f"The chat format {self.name} cannot combine a thinking budget with tools.",
                "thinking_budget",
            )
        return budget

    def parser(self, prompt: Prompt, tools: tuple[Tool, ...]) -> OutputParser:
        parser = self._reader.parser(tools)
        if self._words is None:
            return parser
        return ReasoningParser(parser, self._words, opened=prompt.opens_reasoning)

    def constrain(
        self,
        prompt: Prompt,
        tools: tuple[Tool, ...],
        choice: ToolChoice,
        schema: dict[str, Any] | None,
    ) -> OutputConstraint | None:
        constraint = self._binder(prompt, tools).constrain(tools, choice, schema)
        return None if constraint is None else self._after_thought(prompt, constraint)

    def bind_content(self, prompt: Prompt, constraint: OutputConstraint) -> OutputConstraint:
        return self._after_thought(prompt, self._binder(prompt, ()).bind_content(constraint))

    def _binder(self, prompt: Prompt, tools: tuple[Tool, ...]) -> Dialect:
        return binding_dialect(self._reader, prompt, tools)

    def _after_thought(self, prompt: Prompt, constraint: OutputConstraint) -> OutputConstraint:
        if self._words is None or prompt.thought_over:
            return constraint
        return after_reasoning(constraint, self._words, opened=prompt.opens_reasoning)

    # --- parts of a rendering ---------------------------------------------------------------------

    def _checked(self, options: RenderOptions) -> RenderOptions:
        if options.template_kwargs:
            raise FormatError(
                f"The chat format {self.name} takes no chat_template_kwargs.",
                "chat_template_kwargs",
            )
        if options.documents:
            raise FormatError(f"The chat format {self.name} takes no documents.", "documents")
        return options

    def _opening(self) -> list[Segment]:
        return fill(self._family.prefix, (), self._tokenizer, self._eos)

    def _fill(self, slot: str, content: Sequence[Segment], index: int = 0) -> list[Segment]:
        return fill(getattr(self._family, slot), content, self._tokenizer, self._eos, index)

    def _told(
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
                    f"The chat format {self.name} takes system messages at the start only.",
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
            return self._fill("system", content, index)
        if lead and self._family.system_place is SystemPlace.FIRST_USER:
            return self._fill("user", [*map(_joined, lead), *content], index)
        return [*lead, *self._fill("user", content, index)]

    def _unopened(self, message: list[Segment], told: Told) -> list[Segment]:
        """The message without the opening of an answer, as another message follows."""
        opening, last = self._family.opening, message[-1]
        if told.role is Role.SYSTEM:
            return message
        if opening is None or not last.control or not last.text.endswith(opening):
            raise FormatError(
                f"In the chat format {self.name} an assistant message must follow this one.",
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
        return list(shielding.split(self._tool_text(hidden), plain).segments)

    def _tool_text(self, tools: tuple[Tool, ...]) -> str:
        if self._family.tool_list is None:
            return self._dialect.tool_text(tools)
        before, after = self._family.tool_list
        return f"{before}{to_json([declaration(tool) for tool in tools])}{after}"

    def _results(self, messages: Sequence[ChatMessage], index: int) -> list[Segment]:
        between = self._family.results_between
        if between is None:
            each = (self._fill("results", self._content(m), index) for m in messages)
            return [segment for segments in each for segment in segments]
        return self._fill("results", self._contents(messages, between, control=True), index)

    def _answer(self, messages: Sequence[ChatMessage], keep_thought: bool) -> list[Segment]:
        """The assistant's side of an exchange: thought, text, calls."""
        content: list[Segment] = []
        has_text = False
        for number, message in enumerate(messages):
            thought, said = split_thought(self._family, message, dropped=not keep_thought)
            if number and content:
                content.append(Segment(BETWEEN_MESSAGES, control=False))
            if thought is not None and keep_thought:
                opening, closing = self._family.thought_words
                content += [
                    Segment(opening, control=True),
                    Segment(thought, control=False),
                    Segment(closing, control=True),
                ]
            content += self._content(said)
            has_text = has_text or bool(said.text)
        calls = tuple(call for message in messages for call in message.tool_calls)
        if not calls:
            return self._fill("assistant", content)
        between = [Segment("\n", control=True)] if has_text else []
        if self._family.calls == self._family.assistant:
            return self._fill("calls", [*content, *between, *self._call_list(calls)])
        if not has_text:
            return self._fill("calls", [*content, *self._call_list(calls)])
        return [*start_run(content), *self._fill("calls", self._call_list(calls))]

    def _call_list(self, calls: tuple[Any, ...]) -> list[Segment]:
        plain = self._dialect.call_text(calls)
        if not any(self._shield.spells(c.arguments) or self._shield.spells(c.name) for c in calls):
            return [Segment(plain, control=True)]
        shielding = Shielding(self._shield)
        hidden = tuple(
            replace(
                call,
                name=shielding.protect(call.name),
                arguments=shielding.protect(call.arguments),
            )
            for call in calls
        )
        return list(shielding.split(self._dialect.call_text(hidden), plain).segments)

    def _continued(
        self, messages: Sequence[ChatMessage], options: RenderOptions
    ) -> tuple[list[Segment], bool]:
        """The final assistant message, left open."""
        if not options.continue_final_message:
            raise FormatError(
                "The last message is the assistant's: end with a user or tool message, or set "
                "continue_final_message to have it continued.",
                "messages",
            )
        message = messages[-1]
        if len(messages) > 1 or message.tool_calls:
            raise FormatError("Only a single assistant text can be continued.", "messages")
        thought, said = split_thought(self._family, message)
        content: list[Segment] = []
        opens = False
        if thought is not None:
            opening, closing = self._family.thought_words
            opens = not said.text and self._family.thinking is not None
            content = [Segment(opening, control=True), Segment(thought, control=False)]
            if not opens:
                content.append(Segment(closing, control=True))
        content += self._content(said)
        element = next(e for e in self._family.assistant if e.has_content)
        index = self._family.assistant.index(element)
        before = fill(self._family.assistant[:index], (), self._tokenizer, self._eos)
        run = start_run([Segment(element.before, control=True), *content])
        return [*before, *run], opens

    def _unsaid_thought(self, thoughts: Thoughts) -> list[Segment]:
        return self._empty_thought() if thoughts.empty_in_prompt else []

    def _empty_thought(self) -> list[Segment]:
        thinking = self._family.thinking
        return [] if thinking is None else [Segment(thinking.empty, control=True, joined=False)]

    def _has_thought(self, messages: Sequence[ChatMessage], kept: bool) -> bool:
        if self._family.thinking is None:
            return True
        return kept and any(split_thought(self._family, m)[0] is not None for m in messages)

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
            content += self._content(message)
        return content

    def _content(self, message: ChatMessage) -> list[Segment]:
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
                        f"The chat format {self.name} takes no {part.kind} input.",
                        part.place or "messages",
                    )
                segments.append(Segment(token, control=True, media=part))
            else:
                segments.append(Segment(part.text, control=False))
        return segments


def _joined(segment: Segment) -> Segment:
    return segment if segment.joined else replace(segment, joined=True)
