"""A chat completion as one JSON object."""

from __future__ import annotations

from typing import Any

from server.answering.fold import AnswerFold, FoldedAnswer, FoldedCall
from server.answering.plan import AnswerPlan
from server.chat.keeping import Place
from server.chat.schemas import ChatCompletionRequest
from server.direct.reply import model_header
from server.errors import ApiError
from server.generation.answers import AnswerId, chat_logprobs, to_json, usage_json
from server.generation.caller import Recipient
from server.usage import Tally


class ChatFold(AnswerFold):
    """An exchange's `Output`."""

    def __init__(
        self,
        body: ChatCompletionRequest,
        plan: AnswerPlan,
        recipient: Recipient,
        place: Place | None = None,
    ) -> None:
        """Is kept at `place`, if there is one, before it is sent."""
        super().__init__(plan)
        self._recipient = recipient
        self._place = place
        self._shows_reasoning = body.include_reasoning is not False
        self._metadata = body.metadata
        self.answer_id = AnswerId("chatcmpl-", body.model, plan.served.hello)

    def end(self, tally: Tally) -> None:
        body = self.body(tally)
        if self._place is None:
            self._send(body, None)
        else:
            self._place.keep(self.answer_id, body, lambda error: self._send(body, error))

    def fail(self, error: ApiError) -> None:
        self._recipient.refuse(error)

    def body(self, tally: Tally) -> bytes:
        """The completion, once every sequence has finished."""
        self.count_reasoning(tally)
        answer, metadata = self.answer_id, self._metadata
        return (
            b'{"id":"%b","object":"chat.completion","created":%d,"model":%b,"choices":%b,'
            b'"usage":%b,"service_tier":"default","system_fingerprint":"%b"%b}'
        ) % (
            answer.id.encode(),
            answer.created,
            to_json(answer.model),
            to_json([self._choice(index, each) for index, each in enumerate(self.answers)]),
            usage_json(tally),
            answer.fingerprint.encode(),
            b"" if metadata is None else b',"metadata":' + to_json(metadata),
        )

    def _send(self, body: bytes, error: ApiError | None) -> None:
        if error is not None:
            self._recipient.refuse(error)
        else:
            self._recipient.answer(200, body, (model_header(self.plan.served.model.id),))

    def _choice(self, index: int, answer: FoldedAnswer) -> dict[str, Any]:
        logprobs = None
        if self.plan.request.logprobs is not None:
            shown = (
                answer.reasoning_logprobs if self._shows_reasoning and answer.reasoning else None
            )
            logprobs = chat_logprobs(answer.logprobs, shown)
        return {
            "index": index,
            "message": self._message(answer),
            "logprobs": logprobs,
            "finish_reason": answer.finish_reason,
        }

    def _message(self, answer: FoldedAnswer) -> dict[str, Any]:
        content = "".join(answer.content)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if answer.calls and not content else content,
            "refusal": None,
        }
        if answer.reasoning and self._shows_reasoning:
            reasoning = "".join(answer.reasoning)
            message["reasoning_content"] = reasoning
            message["reasoning"] = reasoning
        if answer.calls and self.plan.tools.legacy:
            message["function_call"] = _function(answer.calls[0])
        elif answer.calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": _function(call)}
                for call in answer.calls
            ]
        return message


def _function(call: FoldedCall) -> dict[str, str]:
    return {"name": call.name, "arguments": call.arguments}
