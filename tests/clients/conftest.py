"""One service for all clients: the gateway, the bundled model on the hf engine, and a scripted
model for what a model of its size does not do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Server, serving
from tests.gateway.test_serve import BUNDLED

MODEL = "tuneyard-mini"
SCRIPTED = "scripted"
CONFIG = f"""
models:
  - id: {MODEL}
    path: {BUNDLED}
    engine: hf
    dtype: float32
    settings: {{pooling: mean}}
  - id: {SCRIPTED}
    path: .
    engine: scripted
    template: qwen3
    settings:
      replies:
        - {{contains: json, grammar: structural_tag, text: '{{"city": "Paris"}}'}}
        - {{contains: json, text: "```json\\n{{\\"city\\": \\"Paris\\"}}\\n```"}}
"""


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clients")


@pytest.fixture(scope="package")
def server(folder: Path) -> Iterator[Server]:
    (folder / "tuneyard.yaml").write_text(CONFIG)
    with serving(folder, folder / "tuneyard.yaml", [MODEL, SCRIPTED]) as running:
        yield running
