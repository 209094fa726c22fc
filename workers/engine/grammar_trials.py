"""The program in which grammars are tried before an engine compiles them: `-m` with a socket's fd.

A grammar may take any time and memory to compile, and a compiler cannot be interrupted. So each is
first compiled in a process of its own, forked from this one, which has the compiler and the
vocabulary loaded. It ends when its processor time is spent, when its memory is, and when the one
who asked hangs up. What passes is known to be cheap, and is compiled again where it is used.

Some masks along the way are filled too: the time of each is part of everybody's step.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING

import msgspec

from workers.contract.parts import Grammar
from workers.engine.backend import RefusedError
from workers.engine.grammars import compiled_by, lowered, reason_of

if TYPE_CHECKING:
    import xgrammar

MAX_MEMORY_BYTES = 2 * 1024**3
"""What a trial may take beyond what the program has."""
MAX_COMPILED_BYTES = 64 * 1024**2
MAX_MASK_S = 0.1
"""Processor time of one mask."""
_NUM_MASKS = 64


class Trial(msgspec.Struct, frozen=True):
    grammar: Grammar
    cpu_s: float


class Passed(msgspec.Struct, frozen=True, tag=True):
    grammar: Grammar
    """Lowered."""


class Refused(msgspec.Struct, frozen=True, tag=True):
    message: str


Verdict = Passed | Refused


def send(connection: socket.socket, data: bytes) -> None:
    connection.sendall(len(data).to_bytes(4) + data)


def receive(connection: socket.socket) -> bytes | None:
    """None where the other side hangs up."""
    head = _exactly(connection, 4)
    return None if head is None else _exactly(connection, int.from_bytes(head))


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            return None
        data += piece
    return bytes(data)


def main() -> None:
    import xgrammar

    control = socket.socket(fileno=int(sys.argv[1]))
    vocabulary = receive(control)
    if vocabulary is None:
        return
    info = xgrammar.TokenizerInfo.deserialize_json(vocabulary.decode())
    del vocabulary
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # it ends when the engine does
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forked
    while True:
        data, fds, _, _ = socket.recv_fds(control, 1, 1)
        if not data:
            return
        if os.fork() == 0:
            control.close()
            _try(socket.socket(fileno=fds[0]), info)
            os._exit(0)
        os.close(fds[0])


def _try(connection: socket.socket, info: xgrammar.TokenizerInfo) -> None:
    asked = receive(connection)
    if asked is None:
        return
    trial = msgspec.msgpack.decode(asked, type=Trial)
    threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
    _limit_memory()
    # Its signal ends the process.
    signal.setitimer(signal.ITIMER_PROF, trial.cpu_s)
    verdict = _verdict(trial.grammar, info)
    signal.setitimer(signal.ITIMER_PROF, 0)
    send(connection, msgspec.msgpack.encode(verdict))


def _end_with(connection: socket.socket) -> None:
    connection.recv(1)
    os._exit(0)


def _limit_memory() -> None:
    try:
        with open("/proc/self/statm") as statm:
            taken = int(statm.read().split()[0]) * resource.getpagesize()
    except OSError:
        return  # only Linux says it, and only there is the limit kept
    limit = taken + MAX_MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _verdict(grammar: Grammar, info: xgrammar.TokenizerInfo) -> Verdict:
    import xgrammar

    try:
        simple = lowered(grammar)
        compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
        compiled = compiled_by(compiler, simple)
    except RefusedError as error:
        return Refused(error.message)
    except MemoryError:
        return Refused("The grammar takes too much memory to compile.")
    except (RuntimeError, ValueError, TypeError, RecursionError) as error:
        return Refused(f"The grammar cannot be compiled: {reason_of(error)}")
    if compiled.memory_size_bytes > MAX_COMPILED_BYTES:
        return Refused("The grammar is too large once it is compiled.")
    slowest = _slowest_mask(compiled, info)
    if slowest is None:
        return Refused("Nothing that the model could say fits the grammar.")
    if slowest > MAX_MASK_S:
        return Refused("The grammar is too ambiguous to be followed token by token.")
    return Passed(simple)


def _slowest_mask(compiled: xgrammar.CompiledGrammar, info: xgrammar.TokenizerInfo) -> float | None:
    """In processor time, along one output of random tokens; None where no token may come first."""
    import numpy as np
    import xgrammar

    matcher = xgrammar.GrammarMatcher(compiled)
    bitmask = xgrammar.allocate_token_bitmask(1, info.vocab_size)
    ends = set(info.stop_token_ids)
    chance, slowest = random.Random(0), 0.0
    for number in range(_NUM_MASKS):
        started = time.thread_time()
        matcher.fill_next_token_bitmask(bitmask)
        slowest = max(slowest, time.thread_time() - started)
        bits = np.unpackbits(bitmask.numpy().view(np.uint8), bitorder="little")
        possible = np.flatnonzero(bits[: info.vocab_size]).tolist()
        if not number and not possible:
            return None
        allowed = [token_id for token_id in possible if token_id not in ends]
        if not allowed or not matcher.accept_token(chance.choice(allowed)):
            break
    return slowest


if __name__ == "__main__":
    main()
