"""A model named on the command line, served and talked to, without a settings file."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from server.cli.served_model import ServedBy, load_for
from server.config import EngineKind
from tests.jobs.live import GUARD_S, ROOT, wait_until

MODEL = ROOT / "deploy" / "model" / "tuneyard-mini"


def test_a_directory_is_served_and_answers_in_the_terminal(tmp_path: Path) -> None:
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "PORT": "0", "OMP_NUM_THREADS": "1"}
    output = tmp_path / "output.txt"
    command = [sys.executable, "-m", "server.cli"]
    with output.open("wb") as out:
        service = subprocess.Popen(
            [*command, "serve", str(MODEL)], cwd=tmp_path, env=variables, stdout=out, stderr=out
        )
    try:
        wait_until(lambda: service.poll() is not None or "Ready: " in output.read_text())
        url = re.search(r"URL +(\S+)", output.read_text())
        assert url is not None, output.read_text()
        asked = [*command, "chat", "--base-url", url[1], "-p", "What is the capital of France?"]
        said = subprocess.run(
            [*asked, "--temperature", "0"],
            cwd=tmp_path,
            env=variables,
            capture_output=True,
            text=True,
            timeout=GUARD_S,
            check=False,
        )
        assert said.stdout == "The capital of France is Paris.\n", said.stderr
    finally:
        service.terminate()
        service.wait(GUARD_S)


def test_the_engine_of_a_named_model_is_chosen_or_as_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    [entry] = load_for(str(MODEL), ServedBy.AUTO, None).models
    assert (entry.id, entry.engine) == ("tuneyard-mini", EngineKind.HF)
    [entry] = load_for("Qwen/Qwen3-0.6B", ServedBy.VLLM, None).models
    assert (entry.id, entry.path, entry.engine) == (
        "Qwen3-0.6B",
        "Qwen/Qwen3-0.6B",
        EngineKind.VLLM,
    )
    with pytest.raises(SystemExit):
        load_for("no such/model name", ServedBy.HF, None)
    with pytest.raises(SystemExit):
        load_for(str(MODEL), ServedBy.HF, tmp_path / "tuneyard.yaml")
