"""Items of a request's input as they arrive, by their type."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from server.wire import RequestBody, several

MAX_ITEMS = 4096
"""Of one request's input."""
MAX_PARTS = 1024
"""Of one item's content."""
MAX_OUTPUT_CHARS = 10 * 1024 * 1024
"""Of what one function gave back."""
MAX_CALL_ID_CHARS = 64
MAX_NAME_CHARS = 256
"""Of a called function: a model may call one that there is not."""

ItemId = Annotated[str, Field(max_length=128)]
CallId = Annotated[str, Field(min_length=1, max_length=MAX_CALL_ID_CHARS)]
ItemStatus = Literal["in_progress", "completed", "incomplete"]


class InputText(RequestBody):
    type: Literal["input_text"]
    text: str
    prompt_cache_breakpoint: dict[str, Any] | None = None


class InputImage(RequestBody):
    type: Literal["input_image"]
    image_url: str | None = None
    file_id: str | None = None
    detail: Literal["auto", "low", "high", "original"] | None = None
    prompt_cache_breakpoint: dict[str, Any] | None = None


class AudioData(RequestBody):
    data: str
    format: Literal["wav", "mp3"]


class InputSound(RequestBody):
    type: Literal["input_audio"]
    input_audio: AudioData


class InputFile(RequestBody):
    type: Literal["input_file"]
    file_id: str | None = None
    file_data: str | None = None
    file_url: str | None = None
    filename: str | None = None
    detail: Literal["auto", "low", "high"] | None = None
    prompt_cache_breakpoint: dict[str, Any] | None = None


class OutputText(RequestBody):
    """`parsed` is what `.parse()` of OpenAI's SDKs adds."""

    type: Literal["output_text"]
    text: str
    annotations: Annotated[list[dict[str, Any]], several(MAX_PARTS)] | None = None
    logprobs: list[Any] | None = None
    parsed: Any = None


class Refusal(RequestBody):
    type: Literal["refusal"]
    refusal: str


ContentPart = Annotated[
    InputText | InputImage | InputSound | InputFile | OutputText | Refusal,
    Field(discriminator="type"),
]


class Message(RequestBody):
    """What anybody said, with or without a type; an assistant's also as our own output has it."""

    type: Literal["message"] | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: str | Annotated[list[ContentPart], several(MAX_PARTS)]
    id: ItemId | None = None
    status: ItemStatus | None = None
    phase: Literal["commentary", "final_answer"] | None = None


class CallItem(RequestBody):
    """`parsed_arguments` is what `.parse()` of OpenAI's SDKs adds."""

    type: Literal["function_call"]
    call_id: CallId
    name: Annotated[str, Field(max_length=MAX_NAME_CHARS)]
    arguments: str
    id: ItemId | None = None
    status: ItemStatus | None = None
    parsed_arguments: Any = None
    namespace: str | None = None
    caller: Any = None
    created_by: str | None = None
    async_: bool | None = Field(default=None, alias="async")


OutputPart = Annotated[InputText | InputImage | InputFile, Field(discriminator="type")]


class OutputItem(RequestBody):
    type: Literal["function_call_output"]
    call_id: CallId
    output: (
        Annotated[str, Field(max_length=MAX_OUTPUT_CHARS)]
        | Annotated[list[OutputPart], several(MAX_PARTS)]
    )
    id: ItemId | None = None
    status: ItemStatus | None = None
    name: Annotated[str, Field(max_length=MAX_NAME_CHARS)] | None = None
    namespace: str | None = None
    caller: Any = None
    created_by: str | None = None


class SummaryText(RequestBody):
    type: Literal["summary_text"]
    text: str


class ReasoningText(RequestBody):
    type: Literal["reasoning_text"]
    text: str


class Reasoning(RequestBody):
    type: Literal["reasoning"]
    id: ItemId | None = None
    summary: Annotated[list[SummaryText], several(MAX_PARTS)] | None = None
    content: Annotated[list[ReasoningText], several(MAX_PARTS)] | None = None
    encrypted_content: str | None = None
    status: ItemStatus | None = None


class ItemReference(RequestBody):
    type: Literal["item_reference"] | None = None
    id: ItemId


class OtherItem(RequestBody):
    """Of a type that we do not have; it is refused by name."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    type: str


_TYPES = ("message", "function_call", "function_call_output", "reasoning", "item_reference")


def _type_of(item: Any) -> str:
    if not isinstance(item, dict):
        return "message"
    kind = item.get("type")
    if kind is None and "id" in item and "role" not in item:
        return "item_reference"
    return kind if kind in _TYPES else "other" if isinstance(kind, str) else "message"


InputItem = Annotated[
    Annotated[Message, Tag("message")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[OutputItem, Tag("function_call_output")]
    | Annotated[Reasoning, Tag("reasoning")]
    | Annotated[ItemReference, Tag("item_reference")]
    | Annotated[OtherItem, Tag("other")],
    Discriminator(_type_of),
]
