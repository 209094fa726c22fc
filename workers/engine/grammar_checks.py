"""Has grammars tried before an engine takes them, several at once, and remembers the verdicts.

A trial is short at first. A grammar that needs longer waits for one of the few places for long
trials, so that others' ordinary ones pass it by. A caller who hangs up frees the place.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from workers.contract.messages import FailureKind
from workers.contract.parts import Grammar
from workers.engine.backend import RefusedError
from workers.engine.grammar_trials import Refused, Trial, Verdict, send
from workers.engine.grammars import invalid

if TYPE_CHECKING:
    from workers.engine.text.pretrained import PretrainedVocabulary

SHORT_CPU_S, LONG_CPU_S = 0.5, 5.0
NUM_SHORT, NUM_LONG = 4, 2
_DEADLINE_S = 120.0
"""By the clock, for a machine that has no time for it."""
_KEPT_BYTES = 32 * 1024 * 1024
_NUM_TRIES = 2
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Checked:
    grammar: Grammar
    """In a form that every engine takes."""
    is_slow: bool
    """It took more than a short trial to compile."""


@dataclass(slots=True)
class _UnderWay:
    task: asyncio.Task[Checked | str]
    num_waiting: int = 0


class GrammarChecks:
    def __init__(self, vocabulary: PretrainedVocabulary) -> None:
        self._vocabulary = partial(_serialised, vocabulary)
        self._lanes = (
            (asyncio.Semaphore(NUM_SHORT), SHORT_CPU_S),
            (asyncio.Semaphore(NUM_LONG), LONG_CPU_S),
        )
        self._program: _Program | None = None
        self._starting = asyncio.Lock()
        self._under_way: dict[Grammar, _UnderWay] = {}
        self._verdicts = _Verdicts()

    async def check(self, grammar: Grammar) -> Checked:
        """Raises RefusedError."""
        verdict = self._verdicts.get(grammar)
        if verdict is None:
            verdict = await self._shared(grammar)
        if isinstance(verdict, str):
            raise invalid(verdict)
        return verdict

    async def _shared(self, grammar: Grammar) -> Checked | str:
        """One trial for all who wait for the same; it ends when none is left."""
        under_way = self._under_way.get(grammar)
        if under_way is None:
            under_way = _UnderWay(asyncio.create_task(self._settle(grammar)))
            self._under_way[grammar] = under_way
        under_way.num_waiting += 1
        try:
            return await asyncio.shield(under_way.task)
        finally:
            under_way.num_waiting -= 1
            if not under_way.num_waiting and self._under_way.get(grammar) is under_way:
                del self._under_way[grammar]
                under_way.task.cancel()

    async def _settle(self, grammar: Grammar) -> Checked | str:
        verdict = await self._tried(grammar)
        self._verdicts.put(grammar, verdict)
        return verdict

    async def _tried(self, grammar: Grammar) -> Checked | str:
        for lane, (places, cpu_s) in enumerate(self._lanes):
            async with places:
                verdict = await self._verdict(Trial(grammar, cpu_s))
            if isinstance(verdict, Refused):
                return verdict.message
            if verdict is not None:
                return Checked(verdict.grammar, is_slow=lane > 0)
        return (
            f"The grammar takes more than {LONG_CPU_S:.0f} seconds, or too much memory, to compile."
        )

    async def _verdict(self, trial: Trial) -> Verdict | None:
        """None where the trial's time did not do."""
        for _ in range(_NUM_TRIES):
            program = await self._running()
            try:
                async with asyncio.timeout(_DEADLINE_S):
                    verdict = await program.ask(trial)
            except TimeoutError as error:
                message = "The engine has no time to compile the grammar. Please try again later."
                raise RefusedError(FailureKind.OVERLOADED, message) from error
            except OSError:
                continue
            if verdict is not None or program.is_running:
                return verdict
        raise RuntimeError("the program for trials does not stay up")

    async def _running(self) -> _Program:
        async with self._starting:
            if self._program is None or not self._program.is_running:
                self.close()
                self._program = await asyncio.to_thread(_Program, self._vocabulary)
            return self._program

    def close(self) -> None:
        if self._program is not None:
            self._program.close()


def _serialised(vocabulary: PretrainedVocabulary) -> str:
    """As xgrammar reads it."""
    import xgrammar

    return xgrammar.TokenizerInfo.from_huggingface(
        vocabulary.tokenizer,
        vocab_size=vocabulary.size,
        stop_token_ids=sorted(vocabulary.eos_ids) or None,
    ).serialize_json()


class _Verdicts:
    """What came of the last trials, in a bounded amount of memory."""

    def __init__(self) -> None:
        self._held: OrderedDict[Grammar, Checked | str] = OrderedDict()
        self._num_bytes = 0

    def get(self, grammar: Grammar) -> Checked | str | None:
        verdict = self._held.get(grammar)
        if verdict is not None:
            self._held.move_to_end(grammar)
        return verdict

    def put(self, grammar: Grammar, verdict: Checked | str) -> None:
        if grammar in self._held:
            return
        self._held[grammar] = verdict
        self._num_bytes += _size(grammar, verdict)
        while self._num_bytes > _KEPT_BYTES:
            self._num_bytes -= _size(*self._held.popitem(last=False))


def _size(grammar: Grammar, verdict: Checked | str) -> int:
    text = verdict if isinstance(verdict, str) else verdict.grammar.source
    # A text takes up to four bytes a character, and the entries something themselves.
    return 4 * (len(grammar.source) + len(text)) + 500


class _Program:
    """The running `grammar_trials`."""

    def __init__(self, vocabulary: Callable[[], str]) -> None:
        """Takes seconds, and runs on a thread."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "workers.engine.grammar_trials", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1"},
            )
        self._control = ours
        send(ours, vocabulary().encode())

    @property
    def is_running(self) -> bool:
        """Its end of the line is open. That is closed before the line of any trial that it has not
        begun, where its exit status may come later."""
        try:
            return bool(self._control.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            return True
        except OSError:
            return False

    async def ask(self, trial: Trial) -> Verdict | None:
        """None where the trial ended without a verdict. Cancelled, it ends the trial."""
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                socket.send_fds(self._control, [b"t"], [theirs.fileno()])
            ours.setblocking(False)
            asked = msgspec.msgpack.encode(trial)
            await loop.sock_sendall(ours, len(asked).to_bytes(4) + asked)
            head = await _exactly(loop, ours, 4)
            if head is None:
                return None
            answer = await _exactly(loop, ours, int.from_bytes(head))
        return None if answer is None else msgspec.msgpack.decode(answer, type=Verdict)

    def close(self) -> None:
        """Trials under way end with it."""
        self._control.close()
        self._process.kill()
        self._process.wait()


async def _exactly(
    loop: asyncio.AbstractEventLoop, connection: socket.socket, size: int
) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        try:
            piece = await loop.sock_recv(connection, size - len(data))
        except ConnectionResetError:
            return None
        if not piece:
            return None
        data += piece
    return bytes(data)
