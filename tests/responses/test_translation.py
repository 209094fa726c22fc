"""What an input becomes, and an output that is given back, where no small model shows it."""

from __future__ import annotations

from typing import Any, ClassVar

from server.chat.schemas import ChatCompletionRequest
from server.chat.translation import read_chat
from server.responses.context import Context
from server.responses.conversation import Transcript
from server.responses.ids import ItemIds
from server.responses.items import CallItem
from server.responses.output_items import OutputItems
from server.responses.schemas import CreateResponse
from server.responses.tools import FlatTool
from server.responses.translation import read_response
from templates.conversation import MediaPart
from templates.format import ContentDelta, ReasoningDelta, ToolArgumentsDelta, ToolCallStart
from workers.contract.messages import TokenLogprob

PNG = "data:image/png;base64,aGk="


class _NoLogprobs:
    def take_logprobs(self, delta: ContentDelta | ReasoningDelta) -> list[TokenLogprob]:
        return []


class _Compared(str):
    """Counts how often it is compared."""

    __slots__ = ()
    times: ClassVar[int] = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        _Compared.times += 1
        return str.__eq__(self, other)


def media(messages: Any) -> list[tuple[Any, ...]]:
    return [
        (part.kind, part.url, part.detail)
        for message in messages
        for part in message.parts
        if isinstance(part, MediaPart)
    ]


def test_a_call_in_any_words_of_a_model_is_read_again() -> None:
    items = OutputItems(ItemIds(), _NoLogprobs(), None, seals_thoughts=False, with_logprobs=False)
    items.take(
        [
            ToolCallStart(0, "", "i" * 256),
            ToolArgumentsDelta(0, "{}"),
            ToolCallStart(1, "n" * 256, "mine"),
            ToolArgumentsDelta(1, "{}"),
        ]
    )
    made = items.finish("completed")
    read = [CallItem.model_validate(item) for item in made]
    assert [item.name for item in read] == ["", "n" * 256]
    assert len(read[0].call_id) < 64
    assert read[1].call_id == "mine"


def test_ids_of_many_calls_are_not_compared_with_each_other() -> None:
    transcript = Transcript()
    for number in range(300):
        call_id = _Compared(f"call_{number}")
        call = CallItem.model_construct(
            type="function_call", call_id=call_id, name="f", arguments="{}"
        )
        transcript.add(call, f"input[{number}]")
    assert _Compared.times < 300


def test_what_is_too_large_is_not_strict() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(50):
        schema = {"type": "object", "properties": {"x": schema}}
    tool = {"type": "function", "name": "f", "parameters": schema}
    assert not FlatTool.model_validate(tool).is_strict


def test_pictures_and_sound_are_those_of_chat() -> None:
    sound = {"data": "aGk=", "format": "wav"}
    asked = CreateResponse.model_validate(
        {
            "model": "m",
            "input": [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "What is it?"},
                        {"type": "input_image", "image_url": PNG, "detail": "low"},
                        {"type": "input_audio", "input_audio": sound},
                    ],
                }
            ],
        }
    )
    assert not isinstance(asked.input, str)
    request = read_response(asked, Context(tuple(asked.input or ())))
    chat = ChatCompletionRequest.model_validate(
        {
            "model": "m",
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What is it?"},
                        {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}},
                        {"type": "input_audio", "input_audio": sound},
                    ],
                }
            ],
        }
    )
    assert media(request.messages) == media(read_chat(chat).messages)
    places = [p.place for p in request.messages[0].parts if isinstance(p, MediaPart)]
    assert places == ["input[0].content[1]", "input[0].content[2]"]
