"""Model entries of `tuneyard.yaml`: other names for settings, and attached engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from rich.console import Console

from server.config import EngineKind, ModelEntry
from server.config.factory_names import ENGINES, NAMES, Field, Own
from server.config.listing import names_table
from server.errors import InvalidRequest
from server.fine_tuning.base_shape import BaseShape, read_base_shape
from server.fine_tuning.servable import check_entry, check_experts
from server.supervisor.engine_spec import ServedModel, engine_spec
from workers.contract.parameters import FinetuningType
from workers.engine.hf.settings import HfSettings
from workers.engine.sglang.settings import SglangSettings
from workers.engine.vllm.settings import VllmSettings

_SETTINGS = {"hf": HfSettings, "vllm": VllmSettings, "sglang": SglangSettings}


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
        ({"quantization_bit": 3}, "must be one of 4, 8"),
        ({"engine": "vllm", "quantization_bit": 4}, "not a setting of engine vllm: .*quantization"),
        ({"engine": "sglang", "flash_attn": "fa2"}, "attention_backend"),
        ({"engine": "attached", "url": "http://x", "rope_scaling": "yarn"}, "set it there"),
        ({"rope_scaling": "ntk"}, "must be one of linear, dynamic, yarn, llama3"),
        ({"offload_folder": "offload"}, "one device"),
        ({"device_map": "balanced"}, "use device"),
        ({"adapters": [{"id": "ft:m:o::x", "path": "a"}]}, "given to what jobs train"),
        ({"adapters": [{"id": "a", "path": "a"}], "max_loras": 0}, "max_loras of at least 1"),
        (
            {"engine": "attached", "url": "http://x", "adapters": [{"id": "a", "path": "a"}]},
            "need allow_adapters",
        ),
        ({"use_cache": False}, "always kept"),
        ({"new_special_tokens": "<a>"}, "save the resized model"),
        ({"engine": "vllm", "adapter_name_or_path": "a"}, "only the hf engine merges"),
        ({"ms_hub_token": "x", "hub": "modelers"}, "ms_hub_token is for hub modelscope"),
        ({"engine": "vllm", "vllm_config": "{"}, "vllm_config is not JSON"),
        ({"sglang_tp_size": 2}, "it is for sglang"),
        ({"engine": "sglang", "video_fps": 1.0}, "the limits of media are the hf engine's"),
        ({"engine": "attached"}, "needs a url"),
        ({"url": "http://x"}, "url is only for engine: attached"),
        ({"engine": "attached", "url": "http://x", "flavour": "ollama"}, "'vllm'"),
    ],
)
def test_what_an_entry_cannot_have_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        entry(**settings)


@pytest.mark.parametrize(
    ("factory", "ours"),
    [
        (
            {"model_revision": "v1", "ms_hub_token": "t"},
            {"revision": "v1", "hub_token": "t", "hub": "modelscope"},
        ),
        (
            {"quantization_bit": 4, "quantization_type": "fp4", "double_quantization": False},
            {
                "settings": {"quantization_bit": 4, "quantization_type": "fp4"}
                | {"double_quantization": False}
            },
        ),
        ({"rope_scaling": "yarn", "use_cache": True}, {"settings": {"rope_scaling": "yarn"}}),
        (
            {"image_max_pixels": 10_000, "video_fps": 1.0},
            {"settings": {"image_max_pixels": 10_000, "video_fps": 1.0}},
        ),
        ({"device_map": "auto", "low_cpu_mem_usage": True, "resize_vocab": False}, {}),
        (
            {"engine": "vllm", "flash_attn": "fa2", "vllm_config": '{"block_size": 32}'},
            {"engine": "vllm", "settings": {"attention_backend": "FLASH_ATTN", "block_size": 32}},
        ),
        ({"engine": "vllm", "flash_attn": "auto"}, {"engine": "vllm"}),
        (
            {"engine": "sglang", "sglang_maxlen": 512, "sglang_config": {"tp_size": 2}},
            {"engine": "sglang", "max_model_len": 512, "settings": {"tp_size": 2}},
        ),
        ({"adapter_name_or_path": "a,b"}, {"settings": {"merged_adapters": "a,b"}}),
    ],
)
def test_each_name_becomes_ours(factory: dict[str, Any], ours: dict[str, Any]) -> None:
    assert entry(**factory) == entry(**ours)


def test_every_name_says_what_it_is_on_every_engine() -> None:
    for name, engines in NAMES.items():
        assert tuple(engines) == ENGINES, name
        for engine, treatment in engines.items():
            if isinstance(treatment, Field):
                assert treatment.name in ModelEntry.model_fields
            elif isinstance(treatment, Own):
                assert treatment.name in _SETTINGS[engine].__struct_fields__, (name, engine)


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
        check_entry(closed, FinetuningType.LORA, "here")
    opened = entry(engine="attached", url="http://x", allow_adapters=True)
    check_entry(opened, FinetuningType.LORA, "here")
    with pytest.raises(InvalidRequest, match="only adapters"):
        check_entry(opened, FinetuningType.FULL, "here")
    check_entry(entry(), FinetuningType.FULL, "here")


def test_a_job_on_experts_that_sglang_could_not_serve_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"text_config": {"n_routed_experts": 8}}')
    shape = read_base_shape(tmp_path)
    served = entry(engine="sglang")
    with pytest.raises(InvalidRequest, match="name those of its attention") as refused:
        check_experts(served, shape, "all", "here")
    assert refused.value.param == "here.lora_target"
    check_experts(served, shape, "q_proj", "here")
    check_experts(served, BaseShape(), "all", "here")
    check_experts(entry(), shape, "all", "here")


def test_an_entry_that_was_written_out_reads_the_same() -> None:
    for made in (entry(vllm_gpu_util=0.5, engine="vllm"), entry(engine="attached", url="http://x")):
        assert ModelEntry.model_validate_json(made.model_dump_json()) == made


def test_the_operator_can_read_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    Console(width=200).print(names_table())
    shown = capsys.readouterr().out
    assert all(f"\n{name} " in shown for name in NAMES)
    assert "hf, vllm, sglang: settings.rope_scaling; attached, scripted: refused" in shown
