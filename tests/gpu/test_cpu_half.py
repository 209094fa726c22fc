"""The run for a GPU, on the CPU: whoever has a card gets a whole report at the first try."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu.__main__ import ROOT

NAMES = ("card", "parity", "bf16", "decode", "training")
"""Without the stages, which `tests/trainer/test_stages.py` tries on the CPU, and vLLM."""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.gpu", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_every_check_passes_on_the_cpu(tmp_path: Path) -> None:
    report = tmp_path / "report.md"
    ended = run("--device", "cpu", "--report", str(report), *NAMES)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    told = report.read_text()
    for name in NAMES:
        assert f"## {name} (" in told
    assert told.count("- passed") == 6, told
    assert "of the bandwidth" in told
    assert "of the matmul's speed" in told


def test_a_check_that_dies_fails_alone(tmp_path: Path) -> None:
    report = tmp_path / "report.md"
    ended = run("--device", "cuda:99", "--report", str(report), "card", "attention")
    assert ended.returncode == 1
    assert "- FAILED card: died with status 1" in report.read_text()
    assert "## attention" in report.read_text()


def test_a_check_that_does_not_exist_is_refused() -> None:
    ended = run("speed")
    assert ended.returncode == 2
    assert "no check 'speed': card, parity" in ended.stderr
