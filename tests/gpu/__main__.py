"""Tries everything that a GPU changes, and writes a report: `make gpu`.

    python -m tests.gpu                     all checks on cuda; a report in gpu-report.md
    python -m tests.gpu --device cpu        the same on the CPU, with small models
    python -m tests.gpu NAME [NAME ...]     some of them

Needs no network: its models are the bundled one and random ones. Each check runs in a process of
its own with a limit of time, so that one that dies or hangs leaves the others. All together take
less than twelve minutes on one card. The status is 0 if none failed.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tests.gpu.findings import Finding, NotHere

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Check:
    function: str
    """`module.name` below `tests.gpu`: a function of a device and a folder."""
    limit_s: int


CHECKS = {
    "card": Check("card.card", 30),
    "parity": Check("serving.parity", 120),
    "attention": Check("card.kernels", 30),
    "stages": Check("training.stages", 100),
    "bf16": Check("training.bf16", 45),
    "vllm": Check("serving.vllm", 150),
    "decode": Check("roofline.decode", 90),
    "training": Check("roofline.training", 110),
}


def main() -> int:
    parser = _parser()
    options = parser.parse_args()
    names = options.names or list(CHECKS)
    if unknown := set(names) - set(CHECKS):
        parser.error(f"no check {min(unknown)!r}: {', '.join(CHECKS)}")
    if options.into:
        return _run_here(names[0], options.device, Path(options.into))
    report: list[str] = [f"# {options.device}", ""]
    num_failed = 0
    for number, name in enumerate(names, 1):
        sys.stdout.write(f"[{number}/{len(names)}] {name} ...\n")
        sys.stdout.flush()
        start = time.monotonic()
        found = _run_apart(name, options.device)
        lines = [_line(each) for each in found]
        num_failed += sum(each.passed is False for each in found)
        report += [f"## {name} ({time.monotonic() - start:.0f} s)", "", *lines, ""]
        sys.stdout.write("".join(f"  {line}\n" for line in lines))
    Path(options.report).write_text("\n".join(report))
    sys.stdout.write(f"{num_failed} failed; wrote {options.report}\n")
    return int(num_failed > 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=" ".join(CHECKS))
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--report", default="gpu-report.md", metavar="FILE")
    parser.add_argument("--into", help=argparse.SUPPRESS)
    return parser


def _run_apart(name: str, device: str) -> list[Finding]:
    with tempfile.TemporaryDirectory() as folder:
        into = Path(folder) / "findings.json"
        command = [sys.executable, "-m", "tests.gpu", name, "--device", device, "--into", str(into)]
        limit_s = CHECKS[name].limit_s
        try:
            ended = subprocess.run(
                command, cwd=ROOT, timeout=limit_s, capture_output=True, text=True, check=False
            )
        except subprocess.TimeoutExpired:
            return [Finding(name, f"did not end within {limit_s} s", passed=False)]
        if into.exists():
            return msgspec.json.decode(into.read_bytes(), type=list[Finding])
        last = ended.stderr[-3000:]
        return [Finding(name, f"died with status {ended.returncode}:\n{last}", passed=False)]


def _run_here(name: str, device: str, into: Path) -> int:
    module, _, function = CHECKS[name].function.rpartition(".")
    check: Callable[[str, Path], list[Finding]] = getattr(
        importlib.import_module(f"tests.gpu.{module}"), function
    )
    try:
        found = check(device, into.parent / "work")
    except NotHere as missing:
        found = [Finding(name, f"not tried: {missing}")]
    into.write_bytes(msgspec.json.encode(found))
    return 0


def _line(found: Finding) -> str:
    verdict = {True: "passed", False: "FAILED", None: "-"}[found.passed]
    return f"- {verdict} {found.what}: {found.measured}"


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
