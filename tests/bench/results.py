"""Writes RESULTS.md: the ratios of one whole run, and what each benchmark printed."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec
import psutil

from tests.bench.findings import Finding, number

RESULTS = Path(__file__).parent / "RESULTS.md"
_OURS = ("torch", "transformers", "peft", "tokenizers", "fastapi", "uvicorn")


@dataclass(frozen=True, slots=True)
class Run:
    title: str
    output: str
    findings: bytes
    took_s: float


def write_results(runs: Sequence[Run]) -> None:
    RESULTS.write_text("\n".join([_heading(), *_table(runs), "", *map(_section, runs)]))


def _heading() -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in _OURS)
    memory_gib = psutil.virtual_memory().total / 2**30
    return (
        "# Benchmark results\n\n"
        "Written by `make bench`, by whole runs only. Peers and Tuneyard took turns on one "
        "machine; a ratio is the median over rounds of Tuneyard's figure to the peer's.\n\n"
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores ({_processor()}), "
        f"{memory_gib:.0f} GiB, Python {platform.python_version()}, {versions}.\n"
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _table(runs: Sequence[Run]) -> list[str]:
    lines = [
        "| what | Tuneyard | peer | its figure | ratio | target |",
        "|---|---|---|---|---|---|",
    ]
    decode = msgspec.json.Decoder(Finding).decode
    for run in runs:
        for finding in map(decode, run.findings.splitlines()):
            lines.append(
                f"| {finding.what} | {number(finding.ours)} | {finding.peer} | "
                f"{number(finding.theirs)} | {finding.ratio:.2f} | {finding.target or ''} |"
            )
    return lines


def _section(run: Run) -> str:
    return f"## {run.title}\n\n{run.took_s:.0f} s\n\n```text\n{run.output.strip()}\n```\n"
