"""Compares a named template with the model's own Jinja template, token by token.

Run when a model is registered with a named template: a wrong one ruins every answer, and shows here
at once. Differences are reported, not refused: named templates are LLaMA-Factory's behaviour, which
differs from some models' own in places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from templates.conversation import ChatMessage, Conversation, Role, TextPart, Tool, ToolCall
from templates.format import ChatFormat, FormatError, Segment

CONTEXT_TOKENS = 8
"""Tokens shown on each side of a difference."""


class TokenCodec(Protocol):
    """What the comparison needs of a model's tokenizer (`templates.tokenization.Encoder`)."""

    def encode(self, parts: Sequence[Segment], /) -> list[int]: ...

    def decode(self, ids: Sequence[int], /) -> str: ...


@dataclass(frozen=True, slots=True)
class Difference:
    """Where the prompts of one conversation part. A side that cannot render it gives its reason."""

    conversation: str
    token_index: int | None
    expected: str
    """The model's own rendering from a little before that token on."""
    found: str
    expected_token: str = ""
    found_token: str = ""

    def __str__(self) -> str:
        where = f"conversation '{self.conversation}' differs"
        if self.token_index is None:
            return f"{where}: the model's own template gives {self.expected}, this one {self.found}"
        own, given = (repr(t) if t else "the end" for t in (self.expected_token, self.found_token))
        return (
            f"{where} from token {self.token_index} on: the model's own template has {own} there, "
            f"in {self.expected!r}; this one has {given}, in {self.found!r}"
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    compared: tuple[str, ...]
    differences: tuple[Difference, ...]

    @property
    def same(self) -> bool:
        return not self.differences


def compare(found: ChatFormat, expected: ChatFormat, codec: TokenCodec) -> Comparison:
    """Generation prompts of a few conversations under both. A conversation that neither can render
    is left out."""
    compared: list[str] = []
    differences: list[Difference] = []
    for name, conversation in SAMPLE_CONVERSATIONS.items():
        wanted, given = (_ids(f, codec, conversation) for f in (expected, found))
        if isinstance(wanted, str) and isinstance(given, str):
            continue
        compared.append(name)
        if isinstance(wanted, str) or isinstance(given, str):
            difference = Difference(name, None, _shown(wanted), _shown(given))
            differences.append(difference)
        elif wanted != given:
            differences.append(_difference(name, wanted, given, codec))
    return Comparison(tuple(compared), tuple(differences))


def _ids(chat_format: ChatFormat, codec: TokenCodec, conversation: Conversation) -> list[int] | str:
    try:
        return codec.encode(chat_format.render(conversation).segments)
    except FormatError as error:
        return str(error)


def _shown(result: list[int] | str) -> str:
    return f"refused: {result}" if isinstance(result, str) else "a prompt"


def _difference(name: str, wanted: list[int], given: list[int], codec: TokenCodec) -> Difference:
    pairs = zip(wanted, given, strict=False)
    shorter = min(len(wanted), len(given))
    index = next((i for i, (a, b) in enumerate(pairs) if a != b), shorter)
    around = slice(max(index - CONTEXT_TOKENS, 0), index + CONTEXT_TOKENS)
    return Difference(
        name,
        index,
        *(codec.decode(ids[around]) for ids in (wanted, given)),
        *(codec.decode(ids[index : index + 1]) for ids in (wanted, given)),
    )


def _says(role: Role, text: str, reasoning: str | None = None) -> ChatMessage:
    return ChatMessage(role, (TextPart(text),), reasoning)


_SYSTEM = _says(Role.SYSTEM, "You are a test bot.")
_ASK = _says(Role.USER, "How are you?")
_ANSWER = _says(Role.ASSISTANT, "I am fine!")
_AGAIN = _says(Role.USER, "你好")
_TOOL = Tool(
    "get_weather",
    "Get the current weather",
    {
        "type": "object",
        "properties": {"city": {"type": "string", "description": "City name"}},
        "required": ["city"],
    },
)
_CALL = ChatMessage(
    Role.ASSISTANT, tool_calls=(ToolCall("get_weather", '{"city": "北京"}', id="call12345"),)
)
_RESULT = ChatMessage(Role.TOOL, (TextPart('{"temp": 21}'),), tool_call_id="call12345")
_THOUGHT = _says(Role.ASSISTANT, "2", reasoning="one plus one")

SAMPLE_CONVERSATIONS: dict[str, Conversation] = {
    "one turn": Conversation((_ASK,)),
    "system message": Conversation((_SYSTEM, _ASK)),
    "two turns": Conversation((_SYSTEM, _ASK, _ANSWER, _AGAIN)),
    "tools": Conversation((_SYSTEM, _ASK), (_TOOL,)),
    "tools without system message": Conversation((_ASK,), (_TOOL,)),
    "tool result": Conversation((_ASK, _CALL, _RESULT), (_TOOL,)),
    "thought in history": Conversation((_ASK, _THOUGHT, _AGAIN)),
}
