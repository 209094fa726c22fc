"""What a model entry asks of an engine, on real models: rope scaling, quantization, attention,
adapters merged at the start."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from workers.engine.hf.model import load_model
from workers.engine.hf.pooling_backend import HfPoolingBackend, Task
from workers.engine.hf.preparing import attention_name
from workers.engine.hf.settings import HfSettings
from workers.engine.rope import rope_overrides
from workers.engine.sglang.settings import SglangSettings, server_arguments
from workers.engine.spec import BackendName, EngineSpec, SpecError, read_settings
from workers.engine.vllm.settings import VllmSettings, engine_arguments

from . import models

TABLES: list[dict[str, Any]] = [
    {"rope_type": "linear", "factor": 3.0},
    {"rope_type": "yarn", "factor": 3.0, "original_max_position_embeddings": 512},
    {
        "rope_type": "llama3",
        "factor": 3.0,
        "original_max_position_embeddings": 512,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    },
]
ROOT = Path(__file__).parents[2]
IDS = (torch.arange(1400) * 37 + 11)[None] % 440


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.make_model(tmp_path_factory.mktemp("models") / "qwen3")


def spec(folder: Path, **changes: Any) -> EngineSpec:
    plain: dict[str, Any] = {"dtype": "float32", "device": "cpu", "max_loras": 0, **changes}
    return EngineSpec(
        model_id="m",
        backend=BackendName.HF,
        listen="unix:/s",
        model_path=str(folder),
        **plain,
    )


@torch.inference_mode()
def logits(model: Any) -> torch.Tensor:
    model.set_attn_implementation("sdpa")
    return model(input_ids=IDS, use_cache=False).logits


def served(spec: EngineSpec, **settings: Any) -> Any:
    return load_model(spec, read_settings(settings, HfSettings)).model


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table["rope_type"])
def test_rope_scaling_is_transformers_own(folder: Path, table: dict[str, Any]) -> None:
    name = table["rope_type"]
    by_name = served(spec(folder, max_model_len=1500), rope_scaling=name)
    by_table = served(spec(folder), rope_scaling=table)
    config = AutoConfig.from_pretrained(folder)
    theta = config.rope_parameters["rope_theta"]
    config.rope_parameters = {**table, "rope_theta": theta}
    config.max_position_embeddings = 1536
    stock = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32).eval()
    wanted = logits(stock)
    assert torch.allclose(logits(by_name), wanted, atol=1e-4)
    assert torch.allclose(logits(by_table), wanted, atol=1e-4)
    assert not torch.allclose(logits(models.load(folder)), wanted, atol=0.1)
    assert by_name.config.max_position_embeddings == 1536


def test_dynamic_scaling_is_transformers_own_at_full_length(folder: Path) -> None:
    model = served(spec(folder, max_model_len=2000), rope_scaling="dynamic")
    config = AutoConfig.from_pretrained(folder)
    theta = config.rope_parameters["rope_theta"]
    config.rope_parameters = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": theta}
    wanted, _ = ROPE_INIT_FUNCTIONS["dynamic"](config, torch.device("cpu"), seq_len=2048)
    assert torch.allclose(model.model.rotary_emb.inv_freq, wanted)


@pytest.mark.parametrize(
    ("scaling", "length", "message"),
    [
        ("yarn", 300, "within the model's own 512"),
        ({"rope_type": "ntk"}, None, "rope_type must be one of"),
        ({"rope_type": "linear", "factor": 1}, None, "more than 1"),
        ({"rope_type": "linear", "low_freq_factor": 1}, None, "linear has no low_freq_factor"),
    ],
)
def test_a_rope_that_cannot_be_is_refused(
    folder: Path, scaling: Any, length: int | None, message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        rope_overrides(folder, scaling, length)


def test_vllm_and_sglang_get_the_same_rope(folder: Path) -> None:
    one = spec(folder, max_model_len=1500)
    wanted = rope_overrides(folder, "yarn", 1500)
    vllm = engine_arguments(one, VllmSettings(rope_scaling="yarn"), on_cpu=True)
    assert vllm["hf_overrides"] == wanted
    sglang = server_arguments(one, SglangSettings(rope_scaling="yarn"))
    assert json.loads(sglang["json_model_override_args"]) == wanted


@pytest.mark.parametrize(
    ("settings", "theirs"),
    [
        ({"quantization_bit": 8}, {"load_in_8bit": True}),
        ({"quantization_bit": 4}, {"bnb_4bit_use_double_quant": True}),
        (
            {"quantization_bit": 4, "quantization_type": "fp4", "double_quantization": False},
            {"bnb_4bit_quant_type": "fp4"},
        ),
    ],
)
def test_bitsandbytes_on_cpu_is_transformers_own(
    folder: Path, settings: dict[str, Any], theirs: dict[str, Any]
) -> None:
    model = served(spec(folder), **settings)
    layer = model.model.layers[0].mlp.up_proj
    assert type(layer).__module__.startswith("bitsandbytes")
    assert layer.weight.element_size() == 1
    if settings["quantization_bit"] == 4:
        four = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
        theirs = {**four, "bnb_4bit_compute_dtype": torch.float32, **theirs}
    stock = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        quantization_config=BitsAndBytesConfig(**theirs),
        device_map={"": "cpu"},
    )
    wanted = logits(stock.eval())
    assert torch.allclose(logits(model), wanted, atol=1e-3)
    assert not torch.allclose(logits(models.load(folder)), wanted, atol=1e-2)


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        (
            {"quantization_bit": 8, "quantization_method": "hqq"},
            {"max_loras": 4},
            "set max_loras: 0",
        ),
        ({"quantization_bit": 8, "quantization_method": "hqq"}, {}, "'hqq' needs a CUDA device"),
        ({"quantization_bit": 8, "quantization_method": "eetq"}, {}, "'eetq' needs a CUDA device"),
        ({"quantization_method": "hqq"}, {}, "need quantization_bit"),
        ({"flash_attn": "fa2"}, {}, "own attention"),
        ({"flash_attn": "disabled"}, {}, "own attention"),
        ({"merged_adapters": "/nowhere"}, {}, "/nowhere holds no adapter"),
    ],
)
def test_what_the_hf_engine_cannot_do_is_refused(
    folder: Path, settings: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        served(spec(folder, **changes), **settings)


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["bnb", "hqq"])
def test_quantization_on_cuda(folder: Path, method: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    pytest.importorskip({"bnb": "bitsandbytes", "hqq": "hqq"}[method])
    one = spec(folder, device="cuda")
    assert served(one, quantization_bit=8, quantization_method=method) is not None


def test_adapters_are_merged_in_order(folder: Path, tmp_path: Path) -> None:
    paths = [models.make_adapter(folder, tmp_path / str(uid), uid).path for uid in (1, 2)]
    model = served(spec(folder), merged_adapters=",".join(paths))
    stock: Any = models.load(folder)
    for path in paths:
        stock = PeftModel.from_pretrained(stock, path).merge_and_unload()
    assert torch.allclose(logits(model), logits(stock), atol=1e-4)


def test_attention_of_a_model_that_reads() -> None:
    cpu = torch.device("cpu")
    names = {"auto": None, "disabled": "eager", "sdpa": "sdpa"}
    for given, wanted in names.items():
        assert attention_name(read_settings({"flash_attn": given}, HfSettings), cpu) == wanted
    with pytest.raises(SpecError, match="'fa2' needs a CUDA device"):
        attention_name(HfSettings(flash_attn="fa2"), cpu)


def test_a_model_that_reads_takes_no_settings_of_generation(folder: Path) -> None:
    settings = HfSettings(rope_scaling="yarn", pooling="mean")
    with pytest.raises(SpecError, match="rope_scaling is for models that generate"):
        HfPoolingBackend(spec(folder), settings, Task.EMBED, None)  # pyright: ignore


async def test_a_worker_answers_beyond_the_models_own_length_in_eight_bits(
    folder: Path, start_worker: Any, connect: Any
) -> None:
    worker = start_worker(
        backend="hf",
        model_path=str(folder),
        dtype="float32",
        device="cpu",
        max_model_len=1024,
        max_loras=0,
        settings={"rope_scaling": "linear", "quantization_bit": 8},
    )
    client = await connect(worker)
    assert client.hello.max_model_len == 1024
    answer = await client.generate("yes no maybe red green blue " * 90, max_tokens=4)
    assert answer.events[0].prompt_tokens > 512
    assert len(answer.ids) == 4


_ARGUMENTS = {
    "vllm": """
import os, sys
from workers.engine.spec import read_spec, read_settings
from workers.engine.vllm.settings import VllmSettings, engine_arguments, prepare_environment
spec = read_spec(sys.argv[1]); settings = read_settings(spec.settings, VllmSettings)
prepare_environment(spec, settings)
from vllm.engine.arg_utils import AsyncEngineArgs
config = AsyncEngineArgs(**engine_arguments(spec, settings, on_cpu=True)).create_model_config()
print("RESULT", config.max_model_len, config.hf_text_config.rope_parameters["rope_type"])
""",
    "sglang": """
import os, sys
from workers.engine.spec import read_spec, read_settings
from workers.engine.sglang.settings import SglangSettings, prepare_environment, server_arguments
spec = read_spec(sys.argv[1]); settings = read_settings(spec.settings, SglangSettings)
prepare_environment(spec)
from sglang.srt.server_args import ServerArgs
from sglang.srt.configs.model_config import ModelConfig
config = ModelConfig.from_server_args(ServerArgs(**server_arguments(spec, settings)))
print("RESULT", config.context_len, config.hf_text_config.rope_parameters["rope_type"])
""",
}


@pytest.mark.engine_env
@pytest.mark.parametrize("engine", list(_ARGUMENTS))
def test_the_real_engines_take_the_settings(folder: Path, tmp_path: Path, engine: str) -> None:
    python = ROOT / ".envs" / engine / "bin" / "python"
    if not python.exists():
        pytest.skip(f"no {engine} environment")
    one = spec(folder, max_model_len=1500, settings={"rope_scaling": "yarn"})
    (tmp_path / "spec.json").write_bytes(msgspec.json.encode(one))
    paths = [str(ROOT), str(ROOT / "tests" / "sgl_kernel_stub")]
    result = subprocess.run(
        [str(python), "-c", _ARGUMENTS[engine], str(tmp_path / "spec.json")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert "RESULT 1500 yarn" in result.stdout, result.stderr[-3000:]
