"""What an input becomes, where only a model of pictures could answer it."""

from __future__ import annotations

from typing import Any

from server.chat.schemas import ChatCompletionRequest
from server.chat.translation import read_chat
from server.responses.context import Context
from server.responses.schemas import CreateResponse
from server.responses.translation import read_response
from templates.conversation import MediaPart

PNG = "data:image/png;base64,aGk="


def media(messages: Any) -> list[tuple[Any, ...]]:
    return [
        (part.kind, part.url, part.detail)
        for message in messages
        for part in message.parts
        if isinstance(part, MediaPart)
    ]


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
