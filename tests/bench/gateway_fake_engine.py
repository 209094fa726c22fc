"""A fake OpenAI engine over HTTP for the relays that the gateway is measured against.

`python -m tests.bench.gateway_fake_engine PORT`. Streams on common ticks, as the scripted worker
does, and costs little enough not to be what is measured.
"""

from __future__ import annotations

import asyncio
import json
import sys

import uvloop

TICK_S = 0.01
NUM_TOKENS = 128
_CHUNK = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m",'
    b'"choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}]}'
    b"\n\n"
)
_FRAMED = b"%x\r\n%s\r\n" % (len(_CHUNK), _CHUNK)
_END = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":" word"},"logprobs":null,"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":9,"completion_tokens":1,"total_tokens":10}}'
)


class Engine(asyncio.Protocol):
    def __init__(self, streams: dict[Engine, int]) -> None:
        self._streams = streams
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._streams.pop(self, None)

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end].lower()
            size = 0
            for line in head.split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    size = int(line[15:])
            if len(self._data) < end + 4 + size:
                return
            body = self._data[end + 4 : end + 4 + size]
            self._data = self._data[end + 4 + size :]
            self._answer(body)

    def _answer(self, body: bytes) -> None:
        if body and json.loads(body).get("stream"):
            self.transport.write(_HEAD)
            self._streams[self] = NUM_TOKENS
            return
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self.transport.write(head % len(_ANSWER) + _ANSWER)


async def serve(port: int) -> None:
    streams: dict[Engine, int] = {}
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: Engine(streams), "127.0.0.1", port, backlog=2048)
    while True:
        await asyncio.sleep(TICK_S)
        for stream, left in list(streams.items()):
            if left:
                stream.transport.write(_FRAMED)
                streams[stream] = left - 1
            else:
                del streams[stream]
                stream.transport.write(_END)


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
