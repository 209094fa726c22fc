"""A model's own Jinja template as a chat format.

Its text is the template's, to the letter. Control words in the caller's texts are held back while
the template runs and put in afterwards as content (see `templates.shield`). Where the template
looks at such a word and would have rendered otherwise, the guarded rendering stands: a user's text
cannot act as control.

A picture, clip or sound stands where the template wrote its placeholder. Training examples with
media are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import jinja2
from msgspec.structs import replace

from templates.conversation import ChatMessage, Conversation, Role, TextPart, Tool
from templates.dialects import binding_dialect, dialect
from templates.dialects.base import Dialect
from templates.effort import thinking_budget
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
from templates.jinja_continuation import cut, tagged
from templates.jinja_environment import (
    GENERATION_MARKS,
    CompiledTemplate,
    TemplateRefusal,
    compile_template,
)
from templates.jinja_guard import call_texts, protect_answer, split_checked
from templates.jinja_media import media_parts, place_media
from templates.jinja_messages import (
    EFFORT_VARIABLE,
    MessageStyle,
    message_variables,
    option_variables,
    tool_variables,
)
from templates.jinja_probe import Probe, content_only_parser
from templates.jinja_training import turns_by_marks, turns_by_prefixes
from templates.reasoning import ReasoningParser, ThinkingWords, after_reasoning
from templates.shield import Shielding, Split, shield_for

THINKING_WORDS = (
    ThinkingWords("<think>\n", "\n</think>\n\n"),
    ThinkingWords("<seed:think>", "</seed:think>"),
    ThinkingWords("<|channel>thought\n", "<channel|>"),
    ThinkingWords("[THINK]", "[/THINK]"),
    ThinkingWords("◁think▷", "◁/think▷"),
)
CHANNEL_EFFORTS = ("low", "medium", "high")
"""What models with a reasoning channel (gpt-oss) know; a template writes any word it is given."""
TOOL_TEMPLATE = "tool_use"


def default_template(templates: dict[str, str]) -> str:
    if "default" not in templates:
        known = ", ".join(sorted(templates))
        raise FormatError(
            f"The model ships several chat templates and none is the default; name one of them as "
            f"'jinja:NAME': {known}.",
            "template",
        )
    return templates["default"]


class JinjaFormat:
    """Several templates by name: `tool_use` renders conversations with tools, if there is one."""

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
        self._shield = shield_for(tokenizer.special_tokens.union(tokenizer.media.values()))
        self._plain = self.check(default_template(templates), name)
        tool_source = templates.get(TOOL_TEMPLATE)
        self._with_tools = self.check(tool_source, name) if tool_source else self._plain
        self._sources = f"{default_template(templates)}{tool_source or ''}"

    @staticmethod
    def check(source: str, place: str) -> CompiledTemplate:
        """Compiles a template. Raises FormatError with its line."""
        try:
            return compile_template(source)
        except jinja2.TemplateSyntaxError as error:
            raise FormatError(f"{place}:{error.lineno}: {error.message}", "template") from error

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
        return self._probe.end_words(self._tokenizer.special_tokens)

    @property
    def keeps_special_tokens(self) -> bool:
        words = self.thinking_words
        marks = {words.start.strip(), words.end.strip()} if words else set[str]()
        dialect = self.dialect
        return (dialect is not None and dialect.keeps_special_tokens) or not marks.isdisjoint(
            self._tokenizer.special_tokens
        )

    @cached_property
    def thinking_words(self) -> ThinkingWords | None:
        """The words the template writes, or that the vocabulary has both of."""
        for words in THINKING_WORDS:
            start, end = words.start.strip(), words.end.strip()
            if end in self._sources or {start, end} <= self._tokenizer.special_tokens:
                return words
        return None

    @property
    def _writes_thoughts(self) -> bool:
        """The template knows of thinking; a vocabulary may list the words for other models."""
        words = self.thinking_words
        return words is not None and (
            words.end.strip() in self._sources or words.start.strip() in self._sources
        )

    @property
    def _reads_reasoning(self) -> bool:
        return self.dialect is not None and self.dialect.reads_reasoning

    @property
    def dialect(self) -> Dialect | None:
        """The tool-call dialect whose parser reads back a call that the template wrote."""
        return self._spoken or self._probe.dialect

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
            segments = self._continued(conversation)
        else:
            segments = self._render(conversation, generate=True).segments
        if media := media_parts(messages):
            segments = place_media(segments, media, self._tokenizer.media)
        return Prompt(segments, self._opens_reasoning(segments), self._ends_thought(segments))

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
        if self._template(conversation).marks_generation and not last_turn_only:
            return turns_by_marks(conversation, self._text, self._guard(conversation))
        return turns_by_prefixes(
            conversation, self._text, self._guard(conversation), last_turn_only
        )

    def thinking_budget(self, conversation: Conversation) -> ThinkingBudget | None:
        variables = self._template(conversation).variables
        ending = None
        if self._writes_thoughts or self._reads_reasoning:
            ending = self._probe.thought_ending or (self.thinking_words and self.thinking_words.end)
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
        words = self.thinking_words
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
            dialect = self._probe.plain_dialect
        dialect = binding_dialect(dialect, prompt, tools)
        constraint = dialect.constrain(tools, choice, schema)
        if constraint is None or dialect.reads_reasoning:
            return constraint
        return self._after_thought(prompt, constraint)

    def bind_content(self, prompt: Prompt, constraint: OutputConstraint) -> OutputConstraint:
        dialect = binding_dialect(self.dialect or self._probe.plain_dialect, prompt, ())
        constraint = dialect.bind_content(constraint)
        return constraint if dialect.reads_reasoning else self._after_thought(prompt, constraint)

    def _after_thought(self, prompt: Prompt, constraint: OutputConstraint) -> OutputConstraint:
        words = self.thinking_words
        if words is None or prompt.thought_over:
            return constraint
        return after_reasoning(constraint, words, opened=prompt.opens_reasoning)

    # --- rendering --------------------------------------------------------------------------------

    @cached_property
    def _probe(self) -> Probe:
        return Probe(self._probe_text, self._probe_variables)

    @property
    def _probe_variables(self) -> frozenset[str]:
        return self._plain.variables | self._with_tools.variables

    def _probe_text(self, conversation: Conversation, style: MessageStyle, generate: bool) -> str:
        return self._text(conversation, generate, style=style)

    def _template(self, conversation: Conversation) -> CompiledTemplate:
        return self._with_tools if conversation.tools else self._plain

    def _text(
        self,
        conversation: Conversation,
        generate: bool,
        shielding: Shielding | None = None,
        style: MessageStyle | None = None,
        marks: tuple[str, str] | None = None,
    ) -> str:
        """One run of the template."""
        template = self._template(conversation)
        to_text, to_answer = _as_is, _as_is
        if shielding is not None:
            to_text = shielding.protect
            to_answer = protect_answer(shielding, self.thinking_words)
        if conversation.tools and "tools" not in template.variables:
            raise FormatError("The model's chat template takes no tools.", "tools")
        style = style or self._probe.style
        variables = {
            "messages": message_variables(conversation.messages, style, to_text, to_answer),
            "tools": tool_variables(conversation.tools, to_text),
            "documents": None,
            "add_generation_prompt": generate,
            "bos_token": self._tokenizer.bos_token or "",
            "eos_token": self._tokenizer.eos_token or "",
            **option_variables(
                conversation.options,
                template.variables,
                self._writes_thoughts,
                to_text,
            ),
        }
        if marks is not None:
            variables[GENERATION_MARKS] = marks
        return _run(template, variables)

    def _guard(self, conversation: Conversation) -> Shielding | None:
        """A shielding when a text of the caller spells a control word."""
        texts: list[str | None] = []
        for message in conversation.messages:
            texts += [part.text for part in message.parts if isinstance(part, TextPart)]
            texts += [message.name, message.tool_call_id, message.reasoning]
            texts += [text for call in message.tool_calls for text in call_texts(call)]
        options = conversation.options
        given = [tool.parameters for tool in conversation.tools]
        texts += [text for tool in conversation.tools for text in (tool.name, tool.description)]
        spells = self._shield.spells_any(texts) or self._shield.spells_in(
            [given, list(options.documents), options.template_kwargs]
        )
        return Shielding(self._shield) if spells else None

    def _render(self, conversation: Conversation, generate: bool) -> Split:
        plain = self._text(conversation, generate)
        shielding = self._guard(conversation)
        if shielding is None:
            return Split((Segment(plain, control=True),), exact=True)
        return split_checked(shielding, self._text(conversation, generate, shielding), plain)

    def _continued(self, conversation: Conversation) -> tuple[Segment, ...]:
        """As transformers does it: a tag after the final text shows where to cut, and whether the
        template trims the text's end."""
        last = conversation.messages[-1]
        if last.role is not Role.ASSISTANT or last.tool_calls or not last.text:
            raise FormatError(
                "continue_final_message needs a last message of the assistant with text.",
                "continue_final_message",
            )
        shielding = self._guard(conversation)
        marked, word = tagged(conversation)
        plain = cut(self._text(marked, generate=False), word)
        if shielding is None:
            return (Segment(plain, control=True),)
        shielded = cut(self._text(marked, generate=False, shielding=shielding), word)
        return split_checked(shielding, shielded, plain).segments

    def _ends_thought(self, segments: Sequence[Segment]) -> bool:
        words = self.thinking_words
        if words is None or not segments:
            return False
        return segments[-1].text.rstrip().endswith(words.end.strip())

    def _opens_reasoning(self, segments: Sequence[Segment]) -> bool:
        words = self.thinking_words
        if words is None or not segments or not segments[-1].control:
            return False
        return segments[-1].text.rstrip().endswith(words.start.strip())


def _run(template: CompiledTemplate, variables: dict[str, Any]) -> str:
    try:
        return template.render(variables)
    except TemplateRefusal as error:
        message = f"The model's chat template refuses the conversation: {error.message}"
        raise FormatError(message, "messages") from error
    except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
        message = f"The model's chat template cannot render the conversation: {error}"
        raise FormatError(message, "messages") from error


def _as_is(text: str) -> str:
    return text
