"""CPU of the gateway process per streamed record and per short request, beside a plain relay and
Rust routers, in one interleaved run.

Every record that reached the caller is charged the same, whether or not the contender kept up: one
that falls behind finds several records in each read, which flatters it. So besides the full load
there are two that all can carry, and the table says what rate was reached.

Of the routers, sglang-router is asked with a key that it checks, reads requests into types of its
own and counts them; vllm-router passes on what it gets.

    python -m tests.bench gateway      (ROUNDS in the environment; 3 unless told)
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from tests.bench.findings import Finding, record
from tests.bench.gateway_contenders import (
    LONG,
    SHORT,
    STEADY,
    Contender,
    Streamed,
    answers,
    free_port,
    start_relay,
    start_sglang_router,
    start_tuneyard,
    start_vllm_router,
    wait_until,
)
from tests.bench.gateway_fake_engine import NUM_TOKENS
from tests.bench.gateway_load import load

ROUNDS = int(os.environ.get("ROUNDS", "3"))
STREAMS = 256
SOME_STREAMS = 24
"""About as many as the relay carries."""
FEW_STREAMS = 4
LOADS = {STREAMS: 1, SOME_STREAMS: 2, FEW_STREAMS: 2}
"""Streams at once, and how many each caller asks for in turn."""
TOKENS_PER_S = 100
SHORT_CALLERS = 32
MANY_STREAMS = 1000


def measure(contender: Contender) -> None:
    for streams, times in LOADS.items():
        before = contender.cpu_s()
        outcome = asyncio.run(load(contender.port, streams, times, LONG, stream=True))
        check(contender, outcome.errors, outcome.chunks, streams * times * NUM_TOKENS)
        contender.streamed.setdefault(streams, []).append(
            Streamed(
                outcome.chunks,
                (contender.cpu_s() - before) / outcome.chunks * 1e6,
                outcome.chunks / outcome.wall_s,
            )
        )
    before = contender.cpu_s()
    outcome = asyncio.run(
        load(contender.port, SHORT_CALLERS, contender.short_times, SHORT, stream=False)
    )
    check(contender, outcome.errors, outcome.requests, SHORT_CALLERS * contender.short_times)
    contender.us_per_request.append((contender.cpu_s() - before) / outcome.requests * 1e6)


def check(contender: Contender, errors: int, got: int, expected: int) -> None:
    if errors or got != expected:
        raise SystemExit(f"{contender.name}: {errors} errors, {got} of {expected}")


def run(console: Console) -> None:
    started: list[subprocess.Popen[bytes]] = []
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    try:
        engine_port = free_port()
        command = [sys.executable, "-m", "tests.bench.gateway_fake_engine", str(engine_port)]
        started.append(subprocess.Popen(command))
        wait_until(lambda: answers(engine_port, "/health"))
        tuneyard = start_tuneyard(Path(tempfile.mkdtemp(prefix="bench-gateway-")), started)
        contenders = [tuneyard]
        for start in (start_vllm_router, start_sglang_router, start_relay):
            contenders.append(start(engine_port, started))
        for _ in range(ROUNDS):
            for contender in contenders:
                measure(contender)
        report(contenders, console)
        outcome = asyncio.run(load(tuneyard.port, MANY_STREAMS, 1, STEADY, stream=True))
        check(tuneyard, outcome.errors, outcome.chunks, MANY_STREAMS * 32)
        console.print(f"{MANY_STREAMS} concurrent streams: no error, {outcome.wall_s:.1f} s")
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(10)


def report(contenders: list[Contender], console: Console) -> None:
    ours = contenders[0]
    for streams in LOADS:
        target = streams * TOKENS_PER_S
        console.print(f"{streams} streams, {target} records/s offered")
        for contender in contenders:
            rate = statistics.median(one.records_per_s for one in contender.streamed[streams])
            records = sum(one.records for one in contender.streamed[streams])
            kept_up = "kept up" if rate >= 0.9 * target else "fell behind"
            console.print(
                f"  {contender.name:14}{contender.us_per_record(streams):8.1f} us per record, "
                f"{records} delivered at {rate:.0f}/s ({kept_up})"
            )
    console.print(f"{SHORT_CALLERS} callers, one-token answers")
    for contender in contenders:
        console.print(
            f"  {contender.name:14}{contender.us_per_short_request():8.1f} us per request"
        )
    for other in contenders[1:]:
        for what, mine, theirs in (
            *(
                (f"record, {n} streams", ours.us_per_record(n), other.us_per_record(n))
                for n in LOADS
            ),
            (
                f"short request, {SHORT_CALLERS} callers",
                ours.us_per_short_request(),
                other.us_per_short_request(),
            ),
        ):
            record(
                Finding(
                    what=f"gateway CPU, µs per {what}",
                    ours=mine,
                    peer=other.version,
                    theirs=theirs,
                    ratio=mine / theirs,
                )
            )
        short = other.us_per_short_request() / ours.us_per_short_request()
        console.print(
            f"{other.name} / tuneyard, per record: "
            + ", ".join(
                f"{other.us_per_record(n) / ours.us_per_record(n):.2f} at {n} streams"
                for n in LOADS
            )
            + f"; per short request: {short:.2f}"
        )


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    run(Console())


if __name__ == "__main__":
    main()
