"""The handler of `POST /v1/chat/completions`."""

from __future__ import annotations

from typing import Protocol

from server.answering.endpoint import AnsweringEndpoint
from server.answering.plan import AnswerPlan
from server.auth import Principal
from server.chat.fold import ChatFold
from server.chat.keeping import Place, too_large
from server.chat.kept_stream import KeptChatStream
from server.chat.schemas import ChatCompletionRequest
from server.chat.stream import ChatStream
from server.chat.translation import read_chat
from server.direct.reply import Reply
from server.generation.caller import Recipient
from server.generation.output import Output
from server.generation.serving import GenerationHolder, GenerationServices
from server.keeping import MAX_STORED_BYTES, Keeper
from server.store.stored_completions import StoredCompletion


class ChatServices(GenerationServices, Protocol):
    @property
    def completion_keeper(self) -> Keeper[StoredCompletion]: ...


class ChatHolder(GenerationHolder, Protocol):
    @property
    def services(self) -> ChatServices: ...


class ChatEndpoint(AnsweringEndpoint[ChatCompletionRequest]):
    def __init__(self, holder: ChatHolder) -> None:
        super().__init__(
            holder, ChatCompletionRequest, read_chat, stream=ChatStream, whole=ChatFold
        )
        self._chat_holder = holder

    def streamed(
        self, principal: Principal, request: ChatCompletionRequest, plan: AnswerPlan, reply: Reply
    ) -> Output:
        if not request.store:
            return super().streamed(principal, request, plan, reply)
        fold = ChatFold(request, plan, reply)
        keep_alive = self._chat_holder.services.keep_alive
        stream = ChatStream(request, plan, reply, keep_alive, fold.answer_id)
        return KeptChatStream(stream, fold, self._place(principal, request))

    def folded(
        self,
        principal: Principal,
        request: ChatCompletionRequest,
        plan: AnswerPlan,
        recipient: Recipient,
    ) -> Output:
        if not request.store:
            return super().folded(principal, request, plan, recipient)
        return ChatFold(request, plan, recipient, self._place(principal, request))

    def _place(self, principal: Principal, request: ChatCompletionRequest) -> Place:
        """Raises InvalidRequest."""
        messages = request.model_dump_json(include={"messages"}, exclude_unset=True).encode()
        if len(messages) > MAX_STORED_BYTES:
            raise too_large()
        keeper = self._chat_holder.services.completion_keeper
        return Place(keeper, principal.project.id, request.metadata, messages)
