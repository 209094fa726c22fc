"""A message as one JSON object, and what it has in common with a stream."""

from __future__ import annotations

from typing import Any

import pydantic_core

from server.answering.choice import ChoiceReader
from server.answering.fold import AnswerFold, FoldedCall
from server.answering.plan import AnswerPlan
from server.direct.reply import model_header
from server.errors import ApiError
from server.generation.answers import AnswerId, to_json
from server.generation.caller import Recipient
from server.messages.schemas import CreateMessage
from server.responses.thoughts import seal_thought
from server.usage import Tally
from workers.contract.messages import Finished, FinishReason


def message_id(body: CreateMessage, plan: AnswerPlan) -> str:
    return AnswerId("msg_", body.model, plan.served.hello).id


def stop_fields(body: CreateMessage, event: Finished, reader: ChoiceReader) -> dict[str, Any]:
    asked = body.stop_sequences or ()
    met = event.stop if reader.stop_met is None else reader.stop_met
    if isinstance(met, str) and met in asked:
        return {"stop_reason": "stop_sequence", "stop_sequence": met}
    reason = "tool_use" if reader.num_calls else "end_turn"
    if event.reason is FinishReason.LENGTH:
        reason = "max_tokens"
    return {"stop_reason": reason, "stop_sequence": None}


def usage_fields(tally: Tally) -> dict[str, Any]:
    """Anthropic counts tokens from the cache apart from the others."""
    return {
        "input_tokens": tally.prompt_tokens - tally.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": tally.cached_tokens,
        "output_tokens": tally.completion_tokens,
        "output_tokens_details": {"thinking_tokens": tally.reasoning_tokens},
    }


class MessageFold(AnswerFold):
    """An exchange's `Output`."""

    def __init__(self, body: CreateMessage, plan: AnswerPlan, recipient: Recipient) -> None:
        super().__init__(plan)
        self._body = body
        self._recipient = recipient
        self._stop: dict[str, Any] = {}

    def finished(self, index: int, event: Finished) -> None:
        super().finished(index, event)
        self._stop = stop_fields(self._body, event, self.answers[index].reader)

    def end(self, tally: Tally) -> None:
        self.count_reasoning(tally)
        message = {
            "id": message_id(self._body, self.plan),
            "type": "message",
            "role": "assistant",
            "model": self._body.model,
            "content": self._content(),
            **self._stop,
            "usage": usage_fields(tally),
        }
        headers = (model_header(self.plan.served.model.id),)
        self._recipient.answer(200, to_json(message), headers)

    def fail(self, error: ApiError) -> None:
        self._recipient.refuse(error)

    def _content(self) -> list[dict[str, Any]]:
        answer = self.answers[0]
        thought, text = "".join(answer.reasoning), "".join(answer.content)
        blocks: list[dict[str, Any]] = []
        if thought:
            shown = thought if self._body.shows_thoughts else ""
            signature = seal_thought(thought)
            blocks.append({"type": "thinking", "thinking": shown, "signature": signature})
        if text:
            blocks.append({"type": "text", "text": text, "citations": None})
        return blocks + [_call(call) for call in answer.calls]


def _call(call: FoldedCall) -> dict[str, Any]:
    """Arguments that were cut, or are no object, are shown as far as they are one."""
    try:
        given = pydantic_core.from_json(call.arguments, allow_partial=True)
    except ValueError:
        given = {}
    shown = given if isinstance(given, dict) else {}
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": shown}
