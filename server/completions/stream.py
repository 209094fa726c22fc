"""A legacy completion as server-sent events; chunks have the shape of the whole answer."""

from __future__ import annotations

from server.completions.plan import CompletionPlan
from server.completions.text import LegacyLogprobs
from server.errors import ApiError
from server.generation.answers import AnswerId, obfuscation, to_json, usage_json
from server.sse import DONE, SSE_HEADERS, KeepAlive, Reply
from server.usage import Tally
from workers.contract.messages import Finished, PromptScored, Token


class CompletionStream:
    """An exchange's `Output`."""

    def __init__(self, plan: CompletionPlan, reply: Reply, keep_alive: KeepAlive) -> None:
        options = plan.request.stream_options
        self._plan = plan
        self._reply = reply
        self._keep_alive = keep_alive
        self._includes_usage = bool(options and options.include_usage)
        self._obfuscates = bool(options and options.include_obfuscation)
        self._logprobs = (
            None if plan.request.logprobs is None else [LegacyLogprobs() for _ in plan.works]
        )
        answer = AnswerId("cmpl-", plan.request.model, plan.served.hello)
        self._head = b"".join(
            (
                b'data: {"id":"',
                answer.id.encode(),
                b'","object":"text_completion","created":%d,"model":' % answer.created,
                to_json(answer.model),
                b',"system_fingerprint":',
                to_json(answer.fingerprint),
                b',"choices":[',
            )
        )
        self._tail = b"]" + (b',"usage":null' if self._includes_usage else b"")

    def begin(self) -> None:
        model = self._plan.served.model.id.encode("latin-1", "replace")
        self._reply.start(200, (*SSE_HEADERS, (b"openai-model", model)))
        self._keep_alive.add(self._reply)
        for index in range(len(self._plan.works)):
            echo = self._plan.echo(index)
            if echo and self._logprobs is None:
                self._write(index, echo)

    def scored(self, index: int, event: PromptScored) -> None:
        """An echo with log probabilities waits for these."""
        if self._logprobs is not None:
            plan, echo = self._plan, self._plan.echo(index)
            words = plan.served.hello.special_tokens
            self._logprobs[index].add_prompt(event.tokens, echo, words)
            self._write(index, echo)

    def token(self, index: int, event: Token) -> None:
        if self._logprobs is not None and event.logprobs is not None:
            self._logprobs[index].add(event.logprobs)
        if event.text:
            self._write(index, event.text)

    def finished(self, index: int, event: Finished) -> None:
        self._write(index, "", to_json(event.reason.value))

    def end(self, tally: Tally) -> None:
        self._keep_alive.remove(self._reply)
        last = DONE
        if self._includes_usage:
            last = self._head + b'],"usage":' + usage_json(tally) + b"}\n\n" + DONE
        self._reply.end(last)

    def fail(self, error: ApiError) -> None:
        self._keep_alive.remove(self._reply)
        self._reply.refuse(error)

    def _write(self, index: int, text: str, finish: bytes = b"null") -> None:
        logprobs = b"null"
        if self._logprobs is not None and len(self._logprobs[index]):
            logprobs = to_json(self._logprobs[index].take())
        tail = self._tail
        if self._obfuscates:
            tail += b',"obfuscation":"' + obfuscation(len(text)).encode() + b'"'
        self._reply.write(
            b"".join(
                (
                    self._head,
                    b'{"index":%d,"text":' % index,
                    to_json(text),
                    b',"logprobs":',
                    logprobs,
                    b',"finish_reason":',
                    finish,
                    b"}",
                    tail,
                    b"}\n\n",
                )
            )
        )
