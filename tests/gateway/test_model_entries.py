"""Model entries of `tuneyard.yaml`: other names for settings, and attached engines."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from server.config import EngineKind, ModelEntry
from server.errors import InvalidRequest
from server.fine_tuning.creation import check_attached
from server.fine_tuning.hyperparameters import FinetuningKind
from server.supervisor.engine_slot import ServedModel, engine_spec


def entry(**settings: Any) -> ModelEntry:
    return ModelEntry.model_validate({"id": "m", "path": "/m", **settings})


def test_the_names_of_llama_factory_are_understood() -> None:
    made = entry(
        infer_backend="vllm",
        infer_dtype="bfloat16",
        vllm_maxlen=4096,
        vllm_gpu_util=0.7,
        vllm_enforce_eager=True,
        vllm_max_lora_rank=32,
    )
    assert made == entry(
        engine="vllm",
        dtype="bfloat16",
        max_model_len=4096,
        max_lora_rank=32,
        settings={"gpu_memory_utilization": 0.7, "enforce_eager": True},
    )
    assert entry(infer_backend="huggingface").engine is EngineKind.HF


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vllm_gpu_util": 0.5}, "vllm_gpu_util is not a setting of engine hf"),
        ({"dtype": "auto", "infer_dtype": "float16"}, "the same setting"),
        ({"infer_backend": "ktransformers"}, "'hf', 'vllm', 'sglang'"),
        ({"quantization_bit": 4}, "quantization_bit"),
        ({"engine": "attached"}, "needs a url"),
        ({"url": "http://x"}, "url is only for engine: attached"),
        ({"engine": "attached", "url": "http://x", "flavour": "ollama"}, "'vllm'"),
    ],
)
def test_what_an_entry_cannot_have_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        entry(**settings)


def test_an_attached_engines_place_reaches_its_worker() -> None:
    made = entry(engine="attached", url="http://x", api_key="sekret", trust_remote_code=True)
    spec = engine_spec(ServedModel("m", "/m", made), "unix:/s", 3)
    assert spec["backend"] == "attached"
    assert spec["trust_remote_code"] is True
    assert (spec["settings"]["url"], spec["settings"]["api_key"]) == ("http://x", "sekret")
    assert "sekret" not in repr(made)


def test_jobs_whose_result_an_attached_engine_could_not_serve_are_refused() -> None:
    closed = entry(engine="attached", url="http://x")
    with pytest.raises(InvalidRequest, match="takes no adapters"):
        check_attached(closed, FinetuningKind.LORA)
    opened = entry(engine="attached", url="http://x", allow_adapters=True)
    check_attached(opened, FinetuningKind.LORA)
    with pytest.raises(InvalidRequest, match="only adapters"):
        check_attached(opened, FinetuningKind.FULL)
    check_attached(entry(), FinetuningKind.FULL)


def test_an_entry_that_was_written_out_reads_the_same() -> None:
    for made in (entry(vllm_gpu_util=0.5, engine="vllm"), entry(engine="attached", url="http://x")):
        assert ModelEntry.model_validate_json(made.model_dump_json()) == made
