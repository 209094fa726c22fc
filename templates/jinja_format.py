"""A model's own Jinja template as a chat format.

Its text is the template's, to the letter, but that a caller's text never acts as control (see
`templates.jinja_renderer`).

A picture, clip or sound stands where the template wrote its placeholder. Training examples with
media are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from msgspec.structs import replace

from templates.conversation import ChatMessage, Conversation, Role, TextPart, Tool
from templates.dialects import binding_dialect, dialect
from templates.dialects.base import Dialect
from templates.effort import thinking_budget, wants_thinking
from templates.format import (
    AS_IT_IS,
    FormatError,
    FormatSettings,
    OutputConstraint,
    OutputParser,
    Prompt,
    Segment,
    ThinkingBudget,
    TokenizerInfo,
    ToolChoice,
    TrainingTurn,
)
from templates.jinja_media import media_parts, place_media
from templates.jinja_messages import EFFORT_VARIABLE
from templates.jinja_probe import content_only_parser
from templates.jinja_renderer import JinjaRenderer
from templates.jinja_training import turns_by_marks, turns_by_prefixes
from templates.reasoning import ReasoningParser, after_reasoning

CHANNEL_EFFORTS = ("low", "medium", "high")
"""What models with a reasoning channel (gpt-oss) know; a template writes any word it is given."""


_THOUGHT = "twice two makes four"


class JinjaFormat:
    def __init__(
        self,
        name: str,
        templates: dict[str, str],
        tokenizer: TokenizerInfo,
        settings: FormatSettings = AS_IT_IS,
    ) -> None:
        self._spoken = None if settings.tool_format is None else dialect(settings.tool_format)
        system = TextPart(settings.default_system) if settings.default_system else None
        self._lead = () if system is None else (ChatMessage(Role.SYSTEM, (system,)),)
        self._name = name
        self._tokenizer = tokenizer
        self._renderer = JinjaRenderer(name, templates, tokenizer)

    @property
    def name(self) -> str:
        return self._name

    @property
    def appends_eos(self) -> bool:
        return False

    @property
    def stop_words(self) -> tuple[str, ...]:
        """The control word that the template writes right after an answer."""
        return self._end_words

    @cached_property
    def _end_words(self) -> tuple[str, ...]:
        return self._renderer.probe.end_words(self._tokenizer.special_tokens)

    @property
    def keeps_special_tokens(self) -> bool:
        words = self._renderer.thinking_words
        marks = {words.start.strip(), words.end.strip()} if words else set[str]()
        dialect = self.dialect
        return (dialect is not None and dialect.keeps_special_tokens) or not marks.isdisjoint(
            self._tokenizer.special_tokens
        )

    @property
    def _reads_reasoning(self) -> bool:
        return self.dialect is not None and self.dialect.reads_reasoning

    @property
    def dialect(self) -> Dialect | None:
        """The tool-call dialect whose parser reads back a call that the template wrote."""
        return self._spoken or self._renderer.probe.dialect

    def _with_system(self, conversation: Conversation) -> Conversation:
        messages = conversation.messages
        if not self._lead or (messages and messages[0].role in (Role.SYSTEM, Role.DEVELOPER)):
            return conversation
        return replace(conversation, messages=(*self._lead, *messages))

    def render(self, conversation: Conversation) -> Prompt:
        options = conversation.options
        messages = conversation.messages
        if not messages:
            raise FormatError("There are no messages.", "messages")
        effort = options.reasoning_effort
        if effort is not None and self._reads_reasoning and effort not in CHANNEL_EFFORTS:
            raise FormatError(
                f"The model's chat template cannot honour reasoning_effort '{effort}'; it takes: "
                f"{', '.join(CHANNEL_EFFORTS)}.",
                "reasoning_effort",
            )
        conversation = self._with_system(conversation)
        if options.continue_final_message:
            segments = self._renderer.continued(conversation)
        else:
            segments = self._renderer.segments(conversation)
        if media := media_parts(messages):
            segments = place_media(segments, media, self._tokenizer.media)
        thought_over = self._ends_thought(segments)
        is_free = not thought_over and not options.continue_final_message
        may_think = is_free and self._renderer.writes_thoughts
        may_think = may_think and wants_thinking(options) is not False
        return Prompt(segments, self._opens_reasoning(segments), thought_over, may_think)

    def render_training(
        self, conversation: Conversation, last_turn_only: bool = False
    ) -> tuple[TrainingTurn, ...]:
        if not conversation.messages or conversation.messages[-1].role is not Role.ASSISTANT:
            raise FormatError(
                "A training conversation must end with an assistant message.", "messages"
            )
        conversation = self._with_system(conversation)
        if media_parts(conversation.messages):
            raise FormatError("A model's own chat template is trained on text only.", "messages")
        if any(m.reasoning for m in conversation.messages) and not self._writes_reasoning:
            raise FormatError(
                "The model's chat template writes no 'reasoning_content'; leave it out, or write "
                "it into 'content'.",
                "messages",
            )
        if self._renderer.template(conversation).marks_generation and not last_turn_only:
            return turns_by_marks(
                conversation, self._renderer.text, self._renderer.guard(conversation)
            )
        return turns_by_prefixes(
            conversation, self._renderer.text, self._renderer.guard(conversation), last_turn_only
        )

    @cached_property
    def _writes_reasoning(self) -> bool:
        """Whether the thought of a last answer is in its rendering."""
        asked = ChatMessage(Role.USER, (TextPart("2 + 2"),))
        answered = ChatMessage(Role.ASSISTANT, (TextPart("4"),), reasoning=_THOUGHT)
        try:
            text = self._renderer.text(self._with_system(Conversation((asked, answered))), False)
        except FormatError:
            return True
        return _THOUGHT in text

    def thinking_budget(self, conversation: Conversation) -> ThinkingBudget | None:
        variables = self._renderer.template(conversation).variables
        ending = None
        if self._renderer.writes_thoughts or self._reads_reasoning:
            ending = self._renderer.probe.thought_ending or (
                self._renderer.thinking_words and self._renderer.thinking_words.end
            )
        budget = thinking_budget(
            conversation.options, ending, own_levels=EFFORT_VARIABLE in variables
        )
        if budget is not None and self._reads_reasoning and conversation.tools:
            raise FormatError(
                "This model's chat format cannot combine a thinking budget with tools.",
                "thinking_budget",
            )
        return budget

    def parser(self, prompt: Prompt, tools: tuple[Tool, ...]) -> OutputParser:
        dialect = self.dialect
        parser = content_only_parser() if dialect is None else dialect.parser(tools)
        words = self._renderer.thinking_words
        if words is None or (dialect is not None and dialect.reads_reasoning):
            return parser
        return ReasoningParser(parser, words, opened=prompt.opens_reasoning)

    def constrain(
        self,
        prompt: Prompt,
        tools: tuple[Tool, ...],
        choice: ToolChoice,
        schema: dict[str, Any] | None,
    ) -> OutputConstraint | None:
        dialect = self.dialect
        if dialect is None:
            if tools:
                raise FormatError(
                    "The tool calls of this model's chat template are of no known dialect.", "tools"
                )
            dialect = self._renderer.probe.plain_dialect
        dialect = binding_dialect(dialect, prompt, tools)
        constraint = dialect.constrain(tools, choice, schema)
        if constraint is None or dialect.reads_reasoning:
            return constraint
        return self._after_thought(prompt, constraint)

    def bind_content(self, prompt: Prompt, constraint: OutputConstraint) -> OutputConstraint:
        dialect = binding_dialect(self.dialect or self._renderer.probe.plain_dialect, prompt, ())
        constraint = dialect.bind_content(constraint)
        return constraint if dialect.reads_reasoning else self._after_thought(prompt, constraint)

    def _after_thought(self, prompt: Prompt, constraint: OutputConstraint) -> OutputConstraint:
        words = self._renderer.thinking_words
        if words is None or not (prompt.may_think or prompt.opens_reasoning):
            return constraint
        return after_reasoning(constraint, words, opened=prompt.opens_reasoning)

    def _ends_thought(self, segments: Sequence[Segment]) -> bool:
        words = self._renderer.thinking_words
        if words is None or not segments:
            return False
        return segments[-1].text.rstrip().endswith(words.end.strip())

    def _opens_reasoning(self, segments: Sequence[Segment]) -> bool:
        words = self._renderer.thinking_words
        if words is None or not segments or not segments[-1].control:
            return False
        return segments[-1].text.rstrip().endswith(words.start.strip())
