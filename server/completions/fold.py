"""A legacy completion as one JSON object."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from server.completions.plan import CompletionPlan
from server.completions.text import LegacyLogprobs
from server.direct.reply import model_header
from server.errors import ApiError
from server.generation.answers import AnswerId, to_json, usage_json
from server.generation.caller import Recipient
from server.usage import Tally
from workers.contract.messages import Finished, PromptScored, Token


@dataclass(slots=True)
class _Candidate:
    texts: list[str] = field(default_factory=list[str])
    logprobs: LegacyLogprobs = field(default_factory=LegacyLogprobs)
    num_tokens: int = 0
    finish_reason: str = "stop"

    @property
    def score(self) -> float:
        """Mean log probability of its tokens."""
        return self.logprobs.total / max(self.num_tokens, 1)


class CompletionFold:
    """An exchange's `Output`."""

    is_kept = True

    def __init__(self, plan: CompletionPlan, recipient: Recipient) -> None:
        self._plan = plan
        self._recipient = recipient
        self._answer = AnswerId("cmpl-", plan.request.model, plan.served.hello)
        self._candidates = [_Candidate() for _ in plan.works]

    def begin(self) -> None:
        """The whole answer is sent at its end."""

    def scored(self, index: int, event: PromptScored) -> None:
        plan, logprobs = self._plan, self._candidates[index].logprobs
        logprobs.add_prompt(event.tokens, plan.echo(index), plan.served.hello.special_tokens)

    def token(self, index: int, event: Token) -> None:
        candidate = self._candidates[index]
        candidate.texts.append(event.text)
        candidate.num_tokens += len(event.token_ids)
        if event.logprobs is not None:
            candidate.logprobs.add(event.logprobs)

    def finished(self, index: int, event: Finished) -> None:
        self._candidates[index].finish_reason = event.reason.value

    def end(self, tally: Tally) -> None:
        plan, answer = self._plan, self._answer
        choices: list[dict[str, Any]] = []
        for number, echo in enumerate(plan.echoes):
            tried = self._candidates[number * plan.tries : (number + 1) * plan.tries]
            if plan.tries > plan.num_answers:
                tried = sorted(tried, key=lambda candidate: -candidate.score)[: plan.num_answers]
            choices += [self._choice(candidate, echo) for candidate in tried]
        for index, choice in enumerate(choices):
            choice["index"] = index
        body = {
            "id": answer.id,
            "object": "text_completion",
            "created": answer.created,
            "model": answer.model,
            "choices": choices,
            "usage": msgspec.Raw(usage_json(tally)),
            "system_fingerprint": answer.fingerprint,
        }
        self._recipient.answer(200, to_json(body), (model_header(plan.served.model.id),))

    def fail(self, error: ApiError) -> None:
        self._recipient.refuse(error)

    def _choice(self, candidate: _Candidate, echo: str | None) -> dict[str, Any]:
        wanted = self._plan.request.logprobs is not None
        return {
            "index": 0,
            "text": (echo or "") + "".join(candidate.texts),
            "logprobs": candidate.logprobs.take() if wanted else None,
            "finish_reason": candidate.finish_reason,
        }
