"""Errors of planning and of engines in the words of the endpoint that was asked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from server.answering.fold import AnswerFold
from server.answering.plan import AnswerPlan, plan_answer
from server.answering.request import AnswerRequest, FieldNames
from server.app import GatewayApp, create_app
from server.errors import ApiError
from server.generation.detached import DetachedCaller
from server.generation.sampling import AskedSampling
from server.usage import Tally
from templates.conversation import (
    ChatMessage,
    MediaKind,
    MediaPart,
    RenderOptions,
    Role,
    TextPart,
    ToolCall,
)
from tests.gateway.conftest import KEY, MODEL, Gateway

NAMES = FieldNames(
    renamed={
        "messages": "input",
        "response_format": "text.format",
        "reasoning_effort": "reasoning.effort",
    },
    messages=("instructions", "input[0]", "input[2]"),
    calls={(2, 0): "input[3]"},
)


def told(role: Role, text: str) -> ChatMessage:
    return ChatMessage(role, (TextPart(text),))


GIVEN = (told(Role.SYSTEM, "Be brief."), told(Role.USER, "say hello"))


class Folded(AnswerFold):
    def __init__(self, plan: AnswerPlan, caller: DetachedCaller) -> None:
        super().__init__(plan)
        self._caller = caller

    def end(self, tally: Tally) -> None:
        self._caller.answer(200, "".join(self.answers[0].content).encode())

    def fail(self, error: ApiError) -> None:
        self._caller.refuse(error)


async def ask(gateway: Gateway, messages: tuple[ChatMessage, ...], **asked: Any) -> Any:
    """The text of the answer, or what is wrong and the field that an error names."""
    request = AnswerRequest(model=MODEL, messages=messages, names=NAMES, **asked)
    app = create_app(gateway.config)
    async with app.running():
        caller = await opened(app)
        answered = await caller.attend(run(app, request, caller))
    if answered.error is None:
        return answered.body.decode()
    return answered.error.message, answered.error.param


async def opened(app: GatewayApp) -> DetachedCaller:
    return DetachedCaller(
        await app.services.keys.authenticate(f"Bearer {KEY}".encode(), "POST", "/v1/x")
    )


async def run(app: GatewayApp, request: AnswerRequest, caller: DetachedCaller) -> None:
    services, principal = app.services, caller.call.principal
    assert principal is not None
    plan = await plan_answer(request, principal, services.catalog, services.media)
    services.runner.run(principal, plan, Folded(plan, caller), caller)


async def test_a_request_of_no_endpoint_is_answered(gateway: Gateway) -> None:
    assert await ask(gateway, GIVEN) == "Hello there, friend."


@pytest.mark.parametrize(
    ("messages", "asked", "param"),
    [
        ((told(Role.SYSTEM, "Be brief."),), {}, "input"),
        ((GIVEN[0], told(Role.ASSISTANT, "Hi."), GIVEN[1]), {}, "input[0].role"),
        (
            (*GIVEN, ChatMessage(Role.ASSISTANT, tool_calls=(ToolCall("f", "no JSON", "c"),))),
            {},
            "input[3].arguments",
        ),
        (
            (
                *GIVEN,
                ChatMessage(Role.USER, (MediaPart(MediaKind.IMAGE, "u", place="messages[0]"),)),
            ),
            {},
            "messages[0]",
        ),
        (
            GIVEN,
            {"options": RenderOptions(enable_thinking=True, reasoning_effort="none")},
            "reasoning.effort",
        ),
        (GIVEN, {"options": RenderOptions(documents=({},))}, "documents"),
        (GIVEN, {"sampling": AskedSampling(stop_token_ids=[-1])}, "stop_token_ids"),
        (
            (GIVEN[0], told(Role.USER, "bad grammar")),
            {"schema": {"type": "object"}},
            "text.format",
        ),
        ((GIVEN[0], told(Role.USER, "refuse me")), {}, "input"),
    ],
)
async def test_an_error_names_the_field_of_the_endpoint(
    gateway: Gateway, messages: tuple[ChatMessage, ...], asked: dict[str, Any], param: str
) -> None:
    message, named = await asyncio.wait_for(ask(gateway, messages, **asked), 120)
    assert named == param
    assert "messages" not in message or param.startswith("messages")
    assert "response_format" not in message
