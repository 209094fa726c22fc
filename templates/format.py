"""The contract of a chat format, and the values that cross it.

A format is used in three places: the gateway renders a prompt and parses the output, a trainer
encodes examples with it, and an operator's model entry names it (or leaves it to the model's own
Jinja template).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Protocol

from templates.conversation import Conversation, MediaKind, MediaPart, Tool, Value


class FormatError(Exception):
    """A conversation that a format cannot render. `param` is the request field to name."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class TokenizerInfo(Value, frozen=True):
    """What a format must know of a model's tokenizer; the engine worker sends it at connect."""

    bos_token: str | None = None
    eos_token: str | None = None
    special_tokens: frozenset[str] = frozenset()
    chat_templates: dict[str, str] = {}
    media: dict[MediaKind, str] = {}
    """The kinds of media the model takes, and what its own template writes for each."""


class FormatSettings(Value, frozen=True):
    """What an operator may change of a format."""

    default_system: str | None = None
    """The system message of conversations that have none; a text without characters is none."""
    tool_format: str | None = None
    """The tool-call dialect to use for the format's own."""


AS_IT_IS = FormatSettings()


class Segment(Value, frozen=True):
    """A stretch of prompt. Special tokens are recognised in control text only."""

    text: str
    control: bool
    joined: bool = True
    """Tokenised as one run with the segment before it; False starts a new run."""
    media: MediaPart | None = None
    """`text` stands for this: the placeholder that the model's processor expands, with the family's
    marks around it."""


class Prompt(Value, frozen=True):
    """A rendered generation prompt."""

    segments: tuple[Segment, ...]
    opens_reasoning: bool = False
    """The prompt ends inside the thinking words, so the output starts as reasoning."""
    thought_over: bool = False
    """The prompt ends behind a thought, so the output is the answer."""
    may_think: bool = False
    """The output may open a thought: the format thinks, and its thinking is not switched off."""


class ThinkingBudget(Value, frozen=True):
    max_tokens: int
    ending: str
    """Control text that ends the thinking once the budget is spent."""

    def spent(self, prompt: Prompt) -> Prompt:
        """`prompt`, some thinking, and its end: the answer follows."""
        ending = Segment(self.ending, control=True, joined=False)
        return Prompt((*prompt.segments, ending), thought_over=True)


class TrainingTurn(Value, frozen=True):
    """`prompt` is context, `response` what the model says; trained on if `trained`."""

    prompt: tuple[Segment, ...]
    response: tuple[Segment, ...]
    trained: bool


# --- the output, as it streams -------------------------------------------------------------------


class ContentDelta(Value, frozen=True):
    """`text` stands in the output as it is; `behind` is how much of what the parser was fed comes
    after it, in characters."""

    text: str
    behind: int = 0


class ReasoningDelta(Value, frozen=True):
    text: str
    behind: int = 0


class ToolCallStart(Value, frozen=True):
    """A call begins; indexes are dense from 0. `id` only where the dialect carries ids."""

    index: int
    name: str
    id: str | None = None


class ToolArgumentsDelta(Value, frozen=True):
    """A piece of the call's arguments; the pieces concatenate to JSON text."""

    index: int
    text: str


Delta = ContentDelta | ReasoningDelta | ToolCallStart | ToolArgumentsDelta


class OutputParser(Protocol):
    """Incremental: any way of splitting the output into `feed` calls gives the same events, once
    neighbouring pieces are joined. Never raises on model output; nothing is lost or doubled."""

    def feed(self, text: str) -> Sequence[Delta]: ...

    def finish(self, cut: bool = False) -> Sequence[Delta]:
        """The output has ended: gives back what was held, malformed calls as content. Of an output
        that was `cut` by its length, the beginning of a mark or call is part of one, not content.
        """
        ...


class ToolChoiceMode(StrEnum):
    NONE = "none"
    AUTO = "auto"
    REQUIRED = "required"


class ToolChoice(Value, frozen=True):
    """`names` limits the callable tools (named and allowed_tools choices); empty means all."""

    mode: ToolChoiceMode = ToolChoiceMode.AUTO
    names: tuple[str, ...] = ()
    parallel: bool = True


class OutputConstraint(Value, frozen=True):
    """A grammar for the engine: `kind` and `source` as in `workers.contract` `Grammar`."""

    kind: str
    source: str


class ChatFormat(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def stop_words(self) -> tuple[str, ...]:
        """Control texts that end an answer (`<|im_end|>`)."""
        ...

    @property
    def appends_eos(self) -> bool:
        """True where the tokenizer's eos ends an answer but the rendering leaves it out."""
        ...

    @property
    def keeps_special_tokens(self) -> bool:
        """True where the parser needs special tokens in the output text (`[TOOL_CALLS]`)."""
        ...

    def render(self, conversation: Conversation) -> Prompt:
        """The prompt whose continuation is the next assistant message. Raises FormatError."""
        ...

    def render_training(
        self, conversation: Conversation, last_turn_only: bool = False
    ) -> tuple[TrainingTurn, ...]:
        """The whole conversation as turns. With `last_turn_only`, all but the last are context, as
        `render` gives it for that turn. Raises FormatError."""
        ...

    def thinking_budget(self, conversation: Conversation) -> ThinkingBudget | None:
        """What `render`'s output may think, where the options limit it. Raises FormatError."""
        ...

    def parser(self, prompt: Prompt, tools: tuple[Tool, ...]) -> OutputParser:
        """Reads one sequence's output. Without tools, tool calls are content."""
        ...

    def constrain(
        self,
        prompt: Prompt,
        tools: tuple[Tool, ...],
        choice: ToolChoice,
        schema: dict[str, Any] | None,
    ) -> OutputConstraint | None:
        """The grammar that enforces `choice` (required, named, at most one call) and strict tools
        in this dialect, or that binds plain content to `schema`; None when nothing is to be
        enforced. Raises FormatError where the dialect cannot."""
        ...

    def bind_content(self, prompt: Prompt, constraint: OutputConstraint) -> OutputConstraint:
        """A caller's own grammar, made to bind the content and not the thinking before it. Raises
        FormatError."""
        ...
