"""Benchmarks against peers, as ratios: `make bench`.

    python -m tests.bench                  all of them; writes RESULTS.md if none fails
    python -m tests.bench NAME [OPTIONS]   one; `NAME --help` says what it measures and takes
    python -m tests.bench --through CMD    all, each run through a command such as `nice -n -5`

Each runs in a process of its own. Figures of a busy machine mean little: other work on its cores
slows programs with more threads most.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.findings import FILE_VARIABLE
from tests.bench.results import RESULTS, Run, write_results

FOLDER = Path(__file__).parent
VARIANTS = {
    "serving": (["--model", "tuneyard-mini"], ["--model", "random-125m", "--rounds", "2"]),
    "trainer": (["--kind", "lora"], ["--kind", "full"]),
}
"""Benchmarks that a whole run starts several times, so that none of it lasts long."""


def names() -> list[str]:
    return [path.stem.removeprefix("bench_") for path in sorted(FOLDER.glob("bench_*.py"))]


def command(name: str, arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", f"tests.bench.bench_{name}", *arguments]


def run_all(through: list[str]) -> int:
    runs: list[Run] = []
    planned = [(name, extra) for name in names() for extra in VARIANTS.get(name, ([],))]
    for number, (name, arguments) in enumerate(planned, 1):
        title = " ".join([name, *arguments])
        _say(f"\n[{number}/{len(planned)}] {title}\n")
        run, status = _run(title, [*through, *command(name, arguments)])
        if status:
            _say(f"{title} failed ({status}); {RESULTS.name} stays as it is\n")
            return 1
        runs.append(run)
    write_results(runs)
    _say(f"\nwrote {RESULTS}\n")
    return 0


def _run(title: str, arguments: list[str]) -> tuple[Run, int]:
    """Its output is shown as it comes, and kept."""
    with tempfile.TemporaryDirectory() as folder:
        findings = Path(folder) / "findings.ndjson"
        findings.touch()
        started = time.monotonic()
        process = subprocess.Popen(
            arguments,
            env={**os.environ, FILE_VARIABLE: str(findings)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            _say(line)
            lines.append(line)
        status = process.wait()
        took_s = time.monotonic() - started
        return Run(title, "".join(lines), findings.read_bytes(), took_s), status


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _listing() -> str:
    lines = ["benchmarks:"]
    for name in names():
        described = importlib.import_module(f"tests.bench.bench_{name}").__doc__ or ""
        lines.append(f"  {name:10} {described.strip().splitlines()[0]}")
    return "\n".join(lines)


def main() -> int:
    if len(sys.argv) > 1 and sys.argv[1] in names():
        return subprocess.run(command(sys.argv[1], sys.argv[2:])).returncode
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=__doc__,
        epilog=_listing() if {"-h", "--help"} & set(sys.argv) else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", choices=names(), help="one benchmark, with its options")
    parser.add_argument(
        "--through", default="", metavar="CMD", help="a command to run each through"
    )
    return run_all(shlex.split(parser.parse_args().through))


if __name__ == "__main__":
    sys.exit(main())
