"""Runs a model's Jinja templates on conversations.

Control words in the caller's texts are held back while a template runs and put in afterwards as
content (see `templates.shield`). Where the template looks at such a word and would have rendered
otherwise, the guarded rendering stands: a user's text cannot act as control.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import jinja2

from templates.conversation import Conversation, Role, TextPart
from templates.format import FormatError, Segment, TokenizerInfo
from templates.jinja_continuation import cut, tagged
from templates.jinja_environment import (
    GENERATION_MARKS,
    CompiledTemplate,
    TemplateRefusal,
    compile_template,
)
from templates.jinja_guard import call_values, protect_answer, split_checked
from templates.jinja_messages import (
    MessageStyle,
    message_variables,
    option_variables,
    tool_variables,
)
from templates.jinja_probe import Probe
from templates.reasoning import ThinkingWords
from templates.shield import Shielding, shield_for

THINKING_WORDS = (
    ThinkingWords("<think>\n", "\n</think>\n\n"),
    ThinkingWords("<seed:think>", "</seed:think>"),
    ThinkingWords("<|channel>thought\n", "<channel|>"),
    ThinkingWords("[THINK]", "[/THINK]"),
    ThinkingWords("◁think▷", "◁/think▷"),
    ThinkingWords("<|START_THINKING|>", "<|END_THINKING|>"),
)
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


def check_template(source: str, place: str) -> CompiledTemplate:
    """Compiles a template. Raises FormatError with its line."""
    try:
        return compile_template(source)
    except jinja2.TemplateSyntaxError as error:
        raise FormatError(f"{place}:{error.lineno}: {error.message}", "template") from error


class JinjaRenderer:
    """Several templates by name: `tool_use` renders conversations with tools, if there is one."""

    def __init__(self, name: str, templates: dict[str, str], tokenizer: TokenizerInfo) -> None:
        self._tokenizer = tokenizer
        self._shield = shield_for(tokenizer.special_tokens.union(tokenizer.media.values()))
        plain, tool_source = default_template(templates), templates.get(TOOL_TEMPLATE)
        self._plain = check_template(plain, name)
        self._with_tools = check_template(tool_source, name) if tool_source else self._plain
        self._sources = f"{plain}{tool_source or ''}"

    @cached_property
    def thinking_words(self) -> ThinkingWords | None:
        """The words the template writes, or that the vocabulary has both of."""
        for words in THINKING_WORDS:
            start, end = words.start.strip(), words.end.strip()
            if end in self._sources or {start, end} <= self._tokenizer.special_tokens:
                return words
        return None

    @property
    def writes_thoughts(self) -> bool:
        """The template knows of thinking; a vocabulary may list the words for other models."""
        words = self.thinking_words
        return words is not None and (
            words.end.strip() in self._sources or words.start.strip() in self._sources
        )

    @cached_property
    def probe(self) -> Probe:
        return Probe(
            self._probe_text,
            self._probe_variables,
            source=self._sources,
            words=self._tokenizer.special_tokens,
        )

    @property
    def _probe_variables(self) -> frozenset[str]:
        return self._plain.variables | self._with_tools.variables

    def _probe_text(self, conversation: Conversation, style: MessageStyle, generate: bool) -> str:
        return self.text(conversation, generate, style=style)

    def template(self, conversation: Conversation) -> CompiledTemplate:
        return self._with_tools if conversation.tools else self._plain

    def text(
        self,
        conversation: Conversation,
        generate: bool,
        shielding: Shielding | None = None,
        style: MessageStyle | None = None,
        marks: tuple[str, str] | None = None,
    ) -> str:
        """One run of the template."""
        template = self.template(conversation)
        to_text, to_answer = _as_is, _as_is
        if shielding is not None:
            to_text = shielding.protect
            looked_for = self.thinking_words if self.writes_thoughts else None
            to_answer = protect_answer(shielding, looked_for)
        if conversation.tools and "tools" not in template.variables:
            raise FormatError("The model's chat template takes no tools.", "tools")
        style = style or self.probe.style
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
                self.writes_thoughts,
                to_text,
            ),
        }
        if marks is not None:
            variables[GENERATION_MARKS] = marks
        return _run(template, variables)

    def guard(self, conversation: Conversation) -> Shielding | None:
        """A shielding when a text of the caller spells a control word."""
        texts: list[str | None] = []
        for message in conversation.messages:
            texts += [part.text for part in message.parts if isinstance(part, TextPart)]
            texts += [message.name, message.tool_call_id, message.reasoning]
        options = conversation.options
        given: list[Any] = [tool.parameters for tool in conversation.tools]
        given += [call_values(call) for m in conversation.messages for call in m.tool_calls]
        texts += [text for tool in conversation.tools for text in (tool.name, tool.description)]
        spells = self._shield.spells_any(texts) or self._shield.spells_in(
            [given, list(options.documents), options.template_kwargs]
        )
        return Shielding(self._shield) if spells else None

    def segments(self, conversation: Conversation) -> tuple[Segment, ...]:
        """The prompt of the next answer."""
        plain = self.text(conversation, generate=True)
        shielding = self.guard(conversation)
        if shielding is None:
            return (Segment(plain, control=True),)
        shielded = self.text(conversation, generate=True, shielding=shielding)
        return split_checked(shielding, shielded, plain)

    def continued(self, conversation: Conversation) -> tuple[Segment, ...]:
        """As transformers does it: a tag after the final text shows where to cut, and whether the
        template trims the text's end."""
        last = conversation.messages[-1]
        if last.role is not Role.ASSISTANT or last.tool_calls or not last.text:
            raise FormatError(
                "continue_final_message needs a last message of the assistant with text.",
                "continue_final_message",
            )
        shielding = self.guard(conversation)
        marked, word = tagged(conversation)
        plain = cut(self.text(marked, generate=False), word)
        if shielding is None:
            return (Segment(plain, control=True),)
        shielded = cut(self.text(marked, generate=False, shielding=shielding), word)
        return split_checked(shielding, shielded, plain)


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
