"""The endpoints that generate, in one table: the handlers of their requests and the API document
are both made from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from fastapi import APIRouter

from server.answering.endpoint import AnsweringEndpoint
from server.auth import Principal
from server.chat.endpoint import ChatEndpoint, ChatServices
from server.chat.schemas import ChatCompletion, ChatCompletionRequest
from server.completions.endpoint import CompletionsEndpoint
from server.completions.schemas import Completion, CompletionRequest
from server.direct.reply import Reply
from server.embeddings.endpoint import EmbeddingsEndpoint
from server.embeddings.schemas import EmbeddingList, EmbeddingRequest
from server.generation.caller import Recipient
from server.messages.counting import MessageTokensEndpoint
from server.messages.output import MessageFold
from server.messages.schemas import CountMessageTokens, CreateMessage, MessageObject, MessageTokens
from server.messages.stream import MessageStream
from server.messages.translation import read_message
from server.openapi import refusals
from server.responses.answer_schemas import ResponseObject
from server.responses.endpoint import ResponsesEndpoint, ResponseServices
from server.responses.schemas import CreateResponse
from server.scores.endpoint import ScoresEndpoint
from server.scores.schemas import ScoreEvaluation, ScoreRequest
from server.wire import RequestBody, ResponseBody

_STREAMED: dict[str, Any] = {
    "description": "The answer; with `stream`, its chunks as server-sent events.",
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}


class Services(ChatServices, ResponseServices, Protocol):
    """What all of the endpoints need of the app."""


class Holder(Protocol):
    @property
    def services(self) -> Services: ...


class Endpoint(Protocol):
    async def __call__(self, principal: Principal, body: bytes, reply: Reply) -> None:
        """Answers a request on its connection, or arranges that engine events will."""
        ...

    @property
    def answer(self) -> Callable[[Principal, Any, Recipient], Awaitable[None]]:
        """Answers a request of the route's `request` as a whole, to whoever asks. Raises ApiError,
        and ClientGone."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratingRoute:
    """Of `POST`."""

    path: str
    endpoint: Callable[[Holder], Endpoint]
    request: type[RequestBody]
    answer: type[ResponseBody]
    name: str
    """The operation's id in the API document."""
    tag: str
    summary: str
    description: str
    streams: bool = False
    statuses: tuple[int, ...] = (404, 429)
    """Refusals besides those of every route."""


ROUTES = (
    GeneratingRoute(
        path="/v1/chat/completions",
        endpoint=ChatEndpoint,
        request=ChatCompletionRequest,
        answer=ChatCompletion,
        name="create_chat_completion",
        tag="Chat",
        summary="Create a chat completion",
        description="Answers a conversation. Fields that the model's engine cannot honour are "
        "refused by name.",
        streams=True,
    ),
    GeneratingRoute(
        path="/v1/responses",
        endpoint=ResponsesEndpoint,
        request=CreateResponse,
        answer=ResponseObject,
        name="create_response",
        tag="Responses",
        summary="Create a response",
        description="Answers input items, and keeps what was said for the next request. Fields "
        "that the model's engine cannot honour are refused by name.",
        streams=True,
        statuses=(404, 429, 507),
    ),
    GeneratingRoute(
        path="/v1/messages",
        endpoint=lambda holder: AnsweringEndpoint(
            holder, CreateMessage, read_message, stream=MessageStream, whole=MessageFold
        ),
        request=CreateMessage,
        answer=MessageObject,
        name="create_message",
        tag="Messages",
        summary="Create a message",
        description="Answers a conversation in Anthropic's shapes, errors included. The key may be "
        "sent as `x-api-key`.",
        streams=True,
    ),
    GeneratingRoute(
        path="/v1/messages/count_tokens",
        endpoint=MessageTokensEndpoint,
        request=CountMessageTokens,
        answer=MessageTokens,
        name="count_message_tokens",
        tag="Messages",
        summary="Count the tokens of a message",
        description="How long the prompt of such a message would be; nothing is generated.",
    ),
    GeneratingRoute(
        path="/v1/completions",
        endpoint=CompletionsEndpoint,
        request=CompletionRequest,
        answer=Completion,
        name="create_completion",
        tag="Completions",
        summary="Create a completion",
        description="Continues text or tokens as they are, without a chat format.",
        streams=True,
    ),
    GeneratingRoute(
        path="/v1/embeddings",
        endpoint=EmbeddingsEndpoint,
        request=EmbeddingRequest,
        answer=EmbeddingList,
        name="create_embedding",
        tag="Embeddings",
        summary="Create embeddings",
        description="One vector for each input, pooled as the model declares.",
    ),
    GeneratingRoute(
        path="/v1/score/evaluation",
        endpoint=ScoresEndpoint,
        request=ScoreRequest,
        answer=ScoreEvaluation,
        name="create_score_evaluation",
        tag="Scores",
        summary="Score texts with a reward model",
        description="One reward for each text, in their order.",
    ),
)


def open_endpoints(holder: Holder) -> dict[str, Endpoint]:
    """By path."""
    return {route.path: route.endpoint(holder) for route in ROUTES}


def described() -> APIRouter:
    """The routes for the API document. Requests go to the endpoints by way of `server.direct`."""
    router = APIRouter()
    for route in ROUTES:
        responses = refusals(*route.statuses, path=route.path)
        router.add_api_route(
            route.path,
            _operation(route),
            methods=["POST"],
            name=route.name,
            response_model=route.answer,
            responses={200: _STREAMED, **responses} if route.streams else responses,
            tags=[route.tag],
            summary=route.summary,
            description=route.description,
        )
    return router


def _operation(route: GeneratingRoute) -> Callable[..., Awaitable[None]]:
    async def operation(body: RequestBody) -> None:
        raise NotImplementedError("requests to this path go through server.direct")

    operation.__annotations__["body"] = route.request
    return operation
