"""A model that our engine cannot batch: the operator and the callers are told, and chat works."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.architectures.subject import Subject
from tests.gateway.conftest import DEADLINE_S, user
from tests.gateway.test_serve import Service

_CONFIG = """
data: data
port: 0
models:
  - {id: hybrid, path: model, engine: hf, template: chatml, dtype: float32, max_loras: 0}
"""
_REASON = "its cache holds more than keys and values (LinearAttentionLayer)"


def test_compatibility_mode_is_said_on_the_terminal_and_of_the_model(tmp_path: Path) -> None:
    Subject("lfm2", tmp_path)
    service = Service(tmp_path, _CONFIG)
    try:
        service.find(r"(Warning: hybrid: compatibility mode, one sequence at a time: )")
        with service.client() as client:
            model = client.models.retrieve("hybrid").model_dump()
            chat = client.chat.completions.create(
                model="hybrid", messages=user("Hello"), max_tokens=5, temperature=0
            )
        assert model["compatibility_mode"] == _REASON
        assert chat.usage is not None
        assert chat.usage.completion_tokens == 5 or chat.choices[0].finish_reason == "stop"
    finally:
        service.process.send_signal(signal.SIGTERM)
        service.process.wait(DEADLINE_S)
