"""A receiver of webhooks: an HTTP server that keeps what comes and answers as it is told."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import openai

from tests.jobs.live import wait_until

SECRET = f"whsec_{base64.b64encode(b'a secret of the webhook').decode()}"


@dataclass
class Receiver:
    url: str
    statuses: list[int] = field(default_factory=list)
    """Of the next answers; 200 when there are none left."""
    taken: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    def settings(self, **more: Any) -> dict[str, Any]:
        return {"url": self.url, "secret": SECRET, "private": True, **more}

    def wait_for(self, count: int) -> list[Any]:
        """The first events, verified by OpenAI's own client."""
        wait_until(lambda: len(self.taken) >= count, interval_s=0.02)
        client = openai.OpenAI(api_key="none", webhook_secret=SECRET)
        return [client.webhooks.unwrap(body, headers) for headers, body in self.taken[:count]]

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.taken]


@contextmanager
def running_receiver() -> Generator[Receiver]:
    receiver = Receiver("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status = receiver.statuses.pop(0) if receiver.statuses else 200
            receiver.taken.append((dict(self.headers.items()), body))
            self.send_response(status)
            if status == 302:
                self.send_header("location", receiver.url)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver.url = f"http://127.0.0.1:{server.server_address[1]}/hook?of=tests"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
