"""Cost of the output parsers in µs per streamed piece: `python -m tests.bench.bench_parsers`.

Plain: an answer without calls, cut like tokens (about four characters); call: one call with a long
string argument. Both are given as the median of rounds over a whole output.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time

from templates.conversation import Tool, ToolCall
from templates.dialects import DIALECTS
from templates.format import OutputParser
from templates.reasoning import ReasoningParser, ThinkingWords

ROUNDS = 15
TOOLS = (Tool("write", None, {"type": "object", "properties": {"text": {"type": "string"}}}),)
PROSE = "The quick brown fox, as it were, jumps over the lazy dog; (twice!) and then sleeps. " * 40


def tokens(text: str) -> list[str]:
    """Pieces that mostly begin with their space, as a tokenizer's do."""
    rng = random.Random(7)
    pieces: list[str] = []
    at = 0
    while at < len(text):
        end = at + rng.randint(2, 6)
        while end < len(text) and text[end - 1] == " ":
            end += 1
        pieces.append(text[at:end])
        at = end
    return pieces


def cost_us(make: object, pieces: list[str]) -> float:
    rounds: list[float] = []
    for _ in range(ROUNDS):
        parser: OutputParser = make()  # type: ignore[operator]
        feed = parser.feed
        started = time.perf_counter()
        for piece in pieces:
            feed(piece)
        parser.finish()
        rounds.append((time.perf_counter() - started) / len(pieces) * 1e6)
    return statistics.median(rounds)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    out = sys.stdout.write
    plain = tokens(PROSE)
    words = ThinkingWords("<think>\n", "\n</think>\n\n")
    thinking = tokens("<think>\n" + PROSE + "\n</think>\n\n" + PROSE)
    out(f"{'dialect':16} {'plain µs':>9} {'call µs':>9}\n")
    none = cost_us(lambda: DIALECTS["qwen"].parser(()), plain)
    out(f"{'(no tools)':16} {none:9.2f}\n")
    for name, entry in DIALECTS.items():
        call = ToolCall("write", json.dumps({"text": PROSE}))
        spoken = tokens(entry.native_text((call,)))
        plain_us = cost_us(lambda entry=entry: entry.parser(TOOLS), plain)
        call_us = cost_us(lambda entry=entry: entry.parser(TOOLS), spoken)
        out(f"{name:16} {plain_us:9.2f} {call_us:9.2f}\n")
    reasoned = cost_us(
        lambda: ReasoningParser(DIALECTS["qwen"].parser(TOOLS), words, opened=False), thinking
    )
    out(f"{'qwen + thinking':16} {reasoned:9.2f}\n")


if __name__ == "__main__":
    main()
