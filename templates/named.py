"""A named template as a chat format: LLaMA-Factory's behaviour, from the family's data.

Thinking follows that behaviour too. A reasoning family drops the thoughts of earlier turns from a
generation prompt, keeps every turn's thoughts in a training conversation, and writes an empty
thought before an answer that has none; in the prompt when thinking is off, else in the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from templates.conversation import (
    ChatMessage,
    Conversation,
    RenderOptions,
    Tool,
)
from templates.dialects import binding_dialect, dialect
from templates.dialects.base import Dialect
from templates.dialogue import BETWEEN_MESSAGES, read_dialogue
from templates.effort import thinking_budget
from templates.family import EosUse, Family, fill, start_run
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
from templates.slots import FamilySlots
from templates.thoughts import Thoughts, split_thought, thinks


class NamedFormat:
    def __init__(self, family: Family, tokenizer: TokenizerInfo) -> None:
        self._family = family
        self._tokenizer = tokenizer
        self._reader = dialect(family.reads or family.dialect)
        replaced = family.eos is EosUse.REPLACED
        self._eos = family.stop[0] if replaced else tokenizer.eos_token
        self._slots = FamilySlots(family, dialect(family.dialect), tokenizer, self._eos)
        thinking = family.thinking
        self._words: ThinkingWords | None = None
        if thinking is not None and not self._reader.reads_reasoning:
            self._words = ThinkingWords(thinking.open, thinking.close)
        words = family.thought_words if thinking is not None else ()
        marks = {word.strip() for word in words}
        self._keeps_special_tokens = self._reader.keeps_special_tokens or not marks.isdisjoint(
            tokenizer.special_tokens
        )

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
        return self._keeps_special_tokens

    def render(self, conversation: Conversation) -> Prompt:
        options = self._checked(conversation.options)
        thoughts = thinks(self._family, options)
        dialogue = read_dialogue(conversation.messages)
        segments = self._slots.opening()
        opens_reasoning = thought_over = may_think = False
        last = len(dialogue.exchanges) - 1
        for index, exchange in enumerate(dialogue.exchanges):
            segments += self._slots.told(exchange, conversation, dialogue.system, index)
            if index < last:
                segments += self._answer(exchange.answer, keep_thought=thoughts.in_history)
            elif exchange.answer:
                continued = self._continued(exchange.answer, options)
                opens_reasoning = continued[1]
                segments += continued[0]
            else:
                segments += self._unsaid_thought(thoughts)
                thought_over = thoughts.empty_in_prompt
                may_think = self._words is not None and not thought_over
        if not dialogue.exchanges[-1].answer and options.continue_final_message:
            raise FormatError(
                "continue_final_message needs a conversation that ends with an assistant message.",
                "continue_final_message",
            )
        return Prompt(tuple(segments), opens_reasoning, thought_over, may_think)

    def render_training(
        self, conversation: Conversation, last_turn_only: bool = False
    ) -> tuple[TrainingTurn, ...]:
        options = self._checked(conversation.options)
        thoughts = thinks(self._family, options)
        thinking = self._family.thinking is not None or self._reader.reads_reasoning
        if not thinking and any(m.reasoning for m in conversation.messages):
            raise FormatError(
                f"The chat format {self.name} writes no 'reasoning_content'; leave it out, or "
                "write it into 'content'.",
                "messages",
            )
        dialogue = read_dialogue(conversation.messages)
        turns: list[TrainingTurn] = []
        last = len(dialogue.exchanges) - 1
        for index, exchange in enumerate(dialogue.exchanges):
            if not exchange.answer:
                raise FormatError(
                    "A training conversation must end with an assistant message.", "messages"
                )
            prompt = self._slots.opening() if index == 0 else []
            prompt += self._slots.told(exchange, conversation, dialogue.system, index)
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
        if self._words is None or not (prompt.may_think or prompt.opens_reasoning):
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
            content += self._slots.content(said)
            has_text = has_text or bool(said.text)
        calls = tuple(call for message in messages for call in message.tool_calls)
        if not calls:
            return self._slots.fill("assistant", content)
        between = [Segment("\n", control=True)] if has_text else []
        if self._family.calls == self._family.assistant:
            return self._slots.fill("calls", [*content, *between, *self._slots.call_list(calls)])
        if not has_text:
            return self._slots.fill("calls", [*content, *self._slots.call_list(calls)])
        return [*start_run(content), *self._slots.fill("calls", self._slots.call_list(calls))]

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
        content += self._slots.content(said)
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
