"""The records of a streamed answer: what chat and legacy completions have in common.

The bytes around a piece of text are made once per answer; per token only the text is escaped.
"""

from __future__ import annotations

from server.direct.keep_alive import KeepAlive
from server.direct.reply import Reply, model_header
from server.errors import ApiError
from server.generation.answers import AnswerId, obfuscation, to_json, usage_json
from server.models.catalog import Served
from server.sse import DONE, SSE_HEADERS
from server.usage import Tally
from server.wire import StreamOptions


class ChunkStream:
    """`field` is the name of what a choice carries: `delta` or `text`."""

    def __init__(
        self,
        reply: Reply,
        keep_alive: KeepAlive,
        options: StreamOptions | None,
        head: bytes,
        field: str,
    ) -> None:
        self._reply = reply
        self._keep_alive = keep_alive
        self._includes_usage = bool(options and options.include_usage)
        self._head = b'data: {"id":' + head + b',"choices":['
        self._field = b',"%b":' % field.encode()
        self._tail = b'],"usage":null' if self._includes_usage else b"]"
        self.obfuscates = bool(options and options.include_obfuscation)

    def start(self, served: Served, first: bytes) -> None:
        """Begins the response with records that there are from the start."""
        self._reply.start(200, (*SSE_HEADERS, model_header(served.model.id)), first)
        self._keep_alive.add(self._reply)

    def record(
        self, index: int, value: bytes, logprobs: bytes = b"null", finish: bytes = b"null"
    ) -> bytes:
        """One record with one choice; all but `index` are JSON."""
        tail = self._tail
        if self.obfuscates:
            tail += b',"obfuscation":"' + obfuscation(len(value)).encode() + b'"'
        return b"".join(
            (
                self._head,
                b'{"index":%d' % index,
                self._field,
                value,
                b',"logprobs":',
                logprobs,
                b',"finish_reason":',
                finish,
                b"}",
                tail,
                b"}\n\n",
            )
        )

    def write(
        self, index: int, value: bytes, logprobs: bytes = b"null", finish: bytes = b"null"
    ) -> None:
        self._reply.write(self.record(index, value, logprobs, finish))

    def end(self, tally: Tally) -> None:
        last = DONE
        if self._includes_usage:
            last = self._head + b'],"usage":' + usage_json(tally) + b"}\n\n" + DONE
        self._reply.end(last)

    def fail(self, error: ApiError) -> None:
        self._reply.refuse(error)


def chunk_head(answer: AnswerId, kind: str, *, tier: str | None = None) -> bytes:
    """The fields between a record's `id` and its `choices`."""
    fields = {
        "object": kind,
        "created": answer.created,
        "model": answer.model,
        **({} if tier is None else {"service_tier": tier}),
        "system_fingerprint": answer.fingerprint,
    }
    return to_json(answer.id) + b"," + to_json(fields)[1:-1]
