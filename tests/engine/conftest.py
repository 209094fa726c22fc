"""Real worker processes and a small client that speaks the contract over their socket."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.forked import PARENT_FD, ForkedWorker
from tests.gateway.conftest import MODEL
from workers.contract.codec import FrameReader, decode_events, encode
from workers.contract.hello import Hello
from workers.contract.messages import (
    Abort,
    Admitted,
    Authenticate,
    Event,
    Failed,
    Finished,
    Generate,
    Leaving,
    PromptScored,
    Stats,
    Token,
    Tokenize,
)
from workers.contract.parts import AdapterRef, Grammar, PromptPart, Sampling, Text, Tokens

START_TIMEOUT_S = 180.0
GUARD_S = 120.0
"""How long a test waits for what has to come: a busy machine can keep the tests' process off its
processors for ten seconds and more, so nothing is concluded from time below this."""
ROOT = Path(__file__).resolve().parents[2]


class Answer:
    """All events of one request, folded."""

    def __init__(self, events: list[Any]) -> None:
        self.events = events
        self.tokens = [event for event in events if isinstance(event, Token)]
        self.text = "".join(token.text for token in self.tokens)
        self.ids = [token_id for token in self.tokens for token_id in token.token_ids]
        self.logprobs = [entry for token in self.tokens for entry in token.logprobs or []]

    @property
    def end(self) -> Any:
        return self.events[-1]


class WorkerClient:
    """`events[id]` is a queue of what came for a request; `frames` counts frames received."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._ids = itertools.count(1)
        self.queues: dict[int, asyncio.Queue[Any]] = {}
        self.ended: list[int] = []
        """The ids of requests in the order in which their last events came."""
        self.stats: asyncio.Queue[Stats] = asyncio.Queue()
        self.num_frames = 0
        self.was_told_of_leaving = False
        self.hello: Hello = None  # type: ignore[assignment]
        self._greeted = asyncio.Event()
        self._task = asyncio.create_task(self._read())

    @classmethod
    async def connect(cls, address: str, token: str | None = None) -> WorkerClient:
        scheme, _, where = address.partition(":")
        if scheme == "unix":
            reader, writer = await asyncio.open_unix_connection(where)
        else:
            host, _, port = where.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
        client = cls(reader, writer)
        if token is not None:
            client.send(Authenticate(token))
        greeting = asyncio.create_task(client._greeted.wait())
        await asyncio.wait(
            {greeting, client._task}, timeout=START_TIMEOUT_S, return_when="FIRST_COMPLETED"
        )
        if not greeting.done():
            greeting.cancel()
            await client.close()
            raise ConnectionRefusedError("the worker did not greet")
        return client

    def send(self, *messages: Any) -> None:
        self._writer.write(encode(messages))

    def start(
        self,
        prompt: str | list[PromptPart],
        *,
        adapter: AdapterRef | None = None,
        grammar: Grammar | None = None,
        cache_scope: str = "",
        **sampling: Any,
    ) -> int:
        request = self.prepare(
            prompt, adapter=adapter, grammar=grammar, cache_scope=cache_scope, **sampling
        )
        self.send(request)
        return request.id

    def prepare(
        self,
        prompt: str | list[PromptPart],
        *,
        adapter: AdapterRef | None = None,
        grammar: Grammar | None = None,
        cache_scope: str = "",
        **sampling: Any,
    ) -> Generate:
        """For `send`, which puts all that it is given into one write."""
        request_id = next(self._ids)
        self.queues[request_id] = asyncio.Queue()
        parts = [Text(prompt)] if isinstance(prompt, str) else prompt
        return Generate(request_id, parts, Sampling(**sampling), adapter, grammar, cache_scope)

    async def abort(self, *requests: int) -> None:
        """Has the worker end them and shows that it did so at once, by its own clock: their ends
        come before the answer to a question that was written right behind the word."""
        question = next(self._ids)
        self.queues[question] = asyncio.Queue()
        self.send(*map(Abort, requests), Tokenize(question, [Tokens([1])]))
        await asyncio.wait_for(self.queues[question].get(), GUARD_S)
        assert set(requests) <= set(self.ended[: self.ended.index(question)])

    async def finish(self, request_id: int, timeout_s: float = GUARD_S) -> Answer:
        events: list[Any] = []
        async with asyncio.timeout(timeout_s):
            while not events or not isinstance(events[-1], Finished | Failed):
                events.append(await self.queues[request_id].get())
        return Answer(events)

    async def generate(self, prompt: str | list[PromptPart], **options: Any) -> Answer:
        return await self.finish(self.start(prompt, **options))

    async def ask(self, kind: Callable[..., Any], *arguments: Any) -> Any:
        request_id = next(self._ids)
        queue = self.queues[request_id] = asyncio.Queue()
        self.send(kind(request_id, *arguments))
        return await asyncio.wait_for(queue.get(), GUARD_S)

    async def next_stats(self) -> Stats:
        while not self.stats.empty():
            self.stats.get_nowait()
        return await asyncio.wait_for(self.stats.get(), GUARD_S)

    async def closed(self, timeout_s: float = GUARD_S) -> None:
        await asyncio.wait_for(self._task, timeout_s)

    async def close(self) -> None:
        self._task.cancel()
        self._writer.close()
        await asyncio.gather(self._task, self._writer.wait_closed(), return_exceptions=True)

    async def _read(self) -> None:
        frames = FrameReader()
        try:
            while data := await self._reader.read(1 << 16):
                for body in frames.feed(data):
                    self.num_frames += 1
                    for event in decode_events(body):
                        self._take(event)
        except ConnectionError:
            pass

    def _take(self, event: Event) -> None:
        if isinstance(event, Hello):
            self.hello = event
            self._greeted.set()
        elif isinstance(event, Stats):
            self.stats.put_nowait(event)
        elif isinstance(event, Leaving):
            self.was_told_of_leaving = True
        else:
            if not isinstance(event, Admitted | PromptScored | Token):
                self.ended.append(event.id)
            self.queues[event.id].put_nowait(event)


class WorkerProcess:
    """An engine worker with a parent pipe held by the test."""

    def __init__(self, folder: Path, **spec: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        read_end, self._parent_pipe = os.pipe()
        self.address = spec.setdefault("listen", f"unix:{folder}/engine.sock")
        self.token = spec.get("token")
        spec.setdefault("model_id", MODEL)
        is_light = spec["backend"] == "scripted"
        spec["parent_fd"] = read_end if is_light else PARENT_FD
        file = folder / "spec.json"
        file.write_text(json.dumps(spec))
        self.log_path = folder / "engine.log"
        self.process = self._start(file, read_end, is_light=is_light)
        os.close(read_end)

    def _start(
        self, file: Path, parent_fd: int, *, is_light: bool
    ) -> subprocess.Popen[bytes] | ForkedWorker:
        if not is_light:
            return ForkedWorker("workers.engine", ["--spec", str(file)], self.log_path, parent_fd)
        with self.log_path.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "workers.engine", "--spec", str(file)],
                cwd=ROOT,
                pass_fds=[parent_fd],
                stderr=log,
            )

    async def client(self) -> WorkerClient:
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
        while True:
            try:
                return await WorkerClient.connect(self.address, self.token)
            except (FileNotFoundError, ConnectionRefusedError):
                if self.process.poll() is not None:
                    raise RuntimeError(self.log_path.read_text()) from None
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(0.05)

    def drop_parent(self) -> None:
        if self._parent_pipe >= 0:
            os.close(self._parent_pipe)
            self._parent_pipe = -1

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def exit_status(self, timeout_s: float = GUARD_S) -> int:
        return await asyncio.to_thread(self.process.wait, timeout_s)

    def end(self) -> None:
        self.drop_parent()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@pytest.fixture
def start_worker(tmp_path: Path) -> Any:
    """Starts worker processes that end with the test."""
    workers: list[WorkerProcess] = []

    def start(**spec: Any) -> WorkerProcess:
        worker = WorkerProcess(tmp_path / f"worker{len(workers)}", **spec)
        workers.append(worker)
        return worker

    yield start
    for worker in workers:
        worker.end()


@pytest.fixture
async def connect() -> AsyncIterator[Any]:
    """Connects to workers; the connections close with the test."""
    clients: list[WorkerClient] = []

    async def open_client(worker: WorkerProcess) -> WorkerClient:
        client = await worker.client()
        clients.append(client)
        return client

    yield open_client
    for client in clients:
        await client.close()


@pytest.fixture
async def client(worker: WorkerProcess) -> AsyncIterator[WorkerClient]:
    """Of the `worker` that the module starts."""
    client = await worker.client()
    yield client
    await client.close()
