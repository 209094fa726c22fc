"""A file of LLaMA-Factory's for inference is the settings of a service with one model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from server.config import ConfigError, EngineKind, load_config
from tests.llamafactory.examples import read_examples


def written(folder: Path, settings: dict[str, Any]) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.mark.parametrize("name", [n for n in read_examples() if n.startswith("inference/")])
def test_the_inference_examples_are_a_model_each(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = read_examples()[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "saves" / "qwen3-4b" / "full" / "sft").mkdir(parents=True)
    loaded = load_config(written(tmp_path, config), {})
    [entry] = loaded.models
    assert entry.id == config["model_name_or_path"].split("/")[-1]
    assert (entry.engine, entry.template) == (EngineKind.HF, config["template"])
    assert entry.trust_remote_code
    assert entry.merges_adapters == ("adapter_name_or_path" in config)


def test_what_is_the_services_own_stays_and_paths_are_of_where_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    (here / "models" / "mine").mkdir(parents=True)
    elsewhere.mkdir()
    monkeypatch.chdir(here)
    config = {
        "model_name_or_path": "models/mine",
        "template": "qwen",
        "finetuning_type": "lora",
        "infer_backend": "vllm",
        "vllm_maxlen": 2048,
        "temperature": 0.5,
        "max_new_tokens": 64,
        "adapter_name_or_path": None,
        "port": 9000,
    }
    loaded = load_config(written(elsewhere, config), {})
    [entry] = loaded.models
    assert (loaded.port, loaded.data) == (9000, here / "data")
    assert (entry.id, entry.path) == ("mine", str(here / "models" / "mine"))
    assert (entry.engine, entry.max_model_len) == (EngineKind.VLLM, 2048)
    assert (entry.generation.temperature, entry.generation.max_tokens) == (0.5, 64)
    named = load_config(written(elsewhere, {**config, "id": "chosen"}), {})
    assert named.models[0].id == "chosen"


def test_files_for_something_else_are_refused_with_what_they_are_for(tmp_path: Path) -> None:
    examples = read_examples()
    with pytest.raises(ConfigError, match="use `tuneyard train` for it"):
        load_config(written(tmp_path, examples["train_lora/qwen3_lora_sft.yaml"]), {})
    with pytest.raises(ConfigError, match="of an export"):
        load_config(written(tmp_path, examples["merge_lora/qwen3_lora_sft.yaml"]), {})
    with pytest.raises(ConfigError, match="no_such_name"):
        load_config(written(tmp_path, {"model_name_or_path": "a/b", "no_such_name": 1}), {})
    with pytest.raises(ConfigError, match="model_name_or_path"):
        load_config(written(tmp_path, {"model_name_or_path": "a/b", "models": []}), {})
