"""Our HF engine, through our gateway, beside other servers of the same model on the same machine.

    python -m tests.bench serving [--model tuneyard-mini|random-125m] [--peer NAME ...]

Chat answers of a forced length are streamed to 1, 8 and 32 callers at once; all servers run at the
same time and take turns, the idle ones suspended. Tokens per second and the median time to the
first text, of the round's callers; each figure is the median over rounds, each ratio the median of
the rounds' own ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from rich.console import Console

from tests.bench.findings import Finding, record
from tests.bench.serving_load import Round, stream_many
from tests.bench.serving_models import BUNDLED, RANDOM, build
from tests.bench.serving_servers import MAX_CONCURRENCY, OURS, PEERS, Server

CONCURRENCIES = (1, 8, MAX_CONCURRENCY)
PROMPT_WORDS = 60
NUM_TOKENS = 64
TARGETS = {
    ("transformers", MAX_CONCURRENCY): "at least 2",
    ("llamafactory", MAX_CONCURRENCY): "at least 10",
    ("vllm", MAX_CONCURRENCY): "at least 0.5",
}
Rounds = dict[tuple[str, int], list[Round]]
OWN = "tuneyard"


def measure(
    servers: dict[str, Server], num_rounds: int, num_tokens: int, console: Console
) -> Rounds:
    rounds: Rounds = defaultdict(list)
    for number in range(num_rounds):
        for name, server in servers.items():
            server.resume()
            for concurrency in CONCURRENCIES:
                times = max(1, 3 // concurrency)
                for _ in range(times):
                    done = asyncio.run(
                        stream_many(server.target, concurrency, PROMPT_WORDS, num_tokens)
                    )
                    rounds[name, concurrency].append(done)
                console.print(
                    f"  round {number + 1}, {name} at {concurrency}: {done.tokens_per_s:.1f} "
                    f"tokens/s, first after {done.first_token_s * 1e3:.0f} ms"
                )
            server.suspend()
    return rounds


def report(model: str, rounds: Rounds, peers: list[str]) -> None:
    for peer in peers:
        for concurrency in CONCURRENCIES:
            ours, theirs = rounds[OWN, concurrency], rounds[peer, concurrency]
            contender = PEERS[peer]
            record(
                Finding(
                    what=f"tokens/s at {concurrency}, {model}",
                    ours=_median([one.tokens_per_s for one in ours]),
                    peer=f"{contender.name}, {contender.version}",
                    theirs=_median([one.tokens_per_s for one in theirs]),
                    ratio=_ratio(ours, theirs, "tokens_per_s"),
                    target=TARGETS.get((peer, concurrency)),
                )
            )
            record(
                Finding(
                    what=f"ms to first text at {concurrency}, {model}",
                    ours=_median([one.first_token_s * 1e3 for one in ours]),
                    peer=f"{contender.name}, {contender.version}",
                    theirs=_median([one.first_token_s * 1e3 for one in theirs]),
                    ratio=_ratio(ours, theirs, "first_token_s"),
                    target="at most 1"
                    if concurrency == 1 and peer in ("transformers", "llamafactory")
                    else None,
                )
            )


def _median(values: list[float]) -> float:
    return statistics.median(values)


def _ratio(ours: list[Round], theirs: list[Round], figure: str) -> float:
    pairs = zip(ours, theirs, strict=True)
    return statistics.median(getattr(a, figure) / getattr(b, figure) for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=[BUNDLED, RANDOM], default=BUNDLED)
    parser.add_argument("--peer", choices=sorted(PEERS), action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=NUM_TOKENS)
    options = parser.parse_args()
    peers: list[str] = options.peer or list(PEERS)
    console = Console(stderr=True)
    random.seed(0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    servers: dict[str, Server] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = build(options.model, folder)
        try:
            for key in (OWN, *peers):
                contender = OURS if key == OWN else PEERS[key]
                console.print(f"  starting {contender.name}")
                servers[key] = Server(contender, model, folder / key)
                servers[key].wait_until_ready()
                asyncio.run(stream_many(servers[key].target, 4, PROMPT_WORDS, 8))
                servers[key].suspend()
            rounds = measure(servers, options.rounds, options.tokens, console)
        finally:
            for server in servers.values():
                server.end()
    report(options.model, rounds, peers)


if __name__ == "__main__":
    main()
