"""`openapi.yaml` against the live gateway, by Schemathesis: examples, every constraint at its edges
and beyond, and fuzzing, from a fixed seed. No 500, no status that is not documented, and no answer
that is off its schema. `/readyz` is left out: its 503 is an answer, as one model has no engine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.auth import ADMINISTRATION
from tests.gateway.conftest import (
    ADMIN_KEY,
    DEADLINE_S,
    KEY,
    MODEL,
    REPLIES,
    Gateway,
    make_config,
    start_gateway,
    start_worker,
)

DOCUMENT = Path(__file__).parents[2] / "openapi.yaml"
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_headers_conformance,response_schema_conformance"
)
MAX_EXAMPLES = 5
"""Of fuzzing, for each operation."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Of its own: what is fuzzed is not left as it was."""
    folder = tmp_path_factory.mktemp("fuzzed")
    worker = start_worker(folder, "engine", REPLIES)
    running = start_gateway(make_config(folder), [worker], [MODEL, "asleep"])
    yield running
    running.stop()
    worker.stop()


@pytest.mark.parametrize(
    ("key", "choice"),
    [(KEY, "--exclude-path-regex"), (ADMIN_KEY, "--include-path-regex")],
    ids=["users", "administration"],
)
def test_every_answer_is_as_documented(
    gateway: Gateway, tmp_path: Path, key: str, choice: str
) -> None:
    program = str(Path(sys.executable).with_name("schemathesis"))
    command = [program, "run", str(DOCUMENT), "--url", gateway.url]
    command += ["--header", f"Authorization: Bearer {key}", "--checks", CHECKS]
    command += ["--phases", "examples,coverage,fuzzing", "--max-examples", str(MAX_EXAMPLES)]
    command += ["--seed", "1", "--generation-deterministic", "--continue-on-failure"]
    command += ["--no-color", choice, f"^{ADMINISTRATION}", "--exclude-path", "/readyz"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=3 * DEADLINE_S,
    )
    assert done.returncode == 0, done.stdout[-20000:]
