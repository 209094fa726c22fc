"""`tuneyard check` on models: no engine is started, and what it would say is said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from server.config import BUNDLED_MODEL, load_config
from server.models.chat_formats import check_chat_formats
from templates.format import FormatError
from tests.jobs.live import ROOT


def test_it_compares_the_template_and_looks_at_the_adapters(tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))
    header = b'{"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
    size = len(header).to_bytes(8, "little")
    (bad / "adapter_model.safetensors").write_bytes(size + header + b"0000")
    entry = {
        "id": "mini",
        "path": str(BUNDLED_MODEL),
        "template": "llama3",
        "adapters": [{"id": "none", "path": "none"}, {"id": "other", "path": "bad"}],
    }
    (tmp_path / "tuneyard.yaml").write_text(yaml.safe_dump({"models": [entry]}))
    done = subprocess.run(
        [sys.executable, "-m", "server.cli", "check"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert yaml.safe_load(done.stdout)["models"][0]["id"] == "mini"
    assert "mini: The template 'llama3' differs from the model's own in" in done.stderr
    assert "conversation 'one turn' differs from token 0 on" in done.stderr
    assert "mini: adapters: none: Adapter 'none' cannot be had on this engine's host" in done.stderr
    said = "Adapter 'other' cannot be served: its peft_type is 'IA3', and LORA alone is served."
    assert f"mini: adapters: other: {said}" in done.stderr
    assert done.returncode == 1


def test_thinking_defaults_of_a_model_in_the_cache_are_checked(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "models--maker--plain"
    snapshot = folder / "snapshots" / "0123456789"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123456789")
    (snapshot / "config.json").write_text("{}")
    (snapshot / "model.safetensors").write_bytes(b"")
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}"
    (snapshot / "chat_template.jinja").write_text(template)
    entry = {
        "id": "plain",
        "path": "maker/plain",
        "hub": "huggingface",
        "cache_dir": "cache",
        "generation": {"enable_thinking": True},
    }
    file = tmp_path / "tuneyard.yaml"
    file.write_text(yaml.safe_dump({"models": [entry]}))
    with pytest.raises(FormatError, match=r"plain: generation\.enable_thinking"):
        check_chat_formats(load_config(file, {}))
    (snapshot / "config.json").unlink()
    check_chat_formats(load_config(file, {}))
