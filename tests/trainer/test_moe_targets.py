"""A default LoRA job on mixtures of experts: what it trains is served with PEFT's own logits, and
what it does not train is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from tests.trainer.conftest import CHATS, Workspace, build_tokenizer, train
from workers.contract.parts import AdapterRef
from workers.contract.training import Completed, TrainFailed, Warned
from workers.engine.adapter_kinds import rules_of
from workers.engine.hf.lora.places import AdapterPlaces
from workers.engine.hf.lora.plan import plan_adapters
from workers.engine.hf.lora.weights import read_adapter
from workers.engine.hf.model import load_model
from workers.engine.hf.settings import HfSettings
from workers.engine.spec import BackendName, EngineSpec

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "eos_token_id": 258,
    "bos_token_id": None,
    "pad_token_id": 256,
}
DENSE_FIRST: dict[str, Any] = {
    "moe_intermediate_size": 16,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
FEW: dict[str, Any] = {"num_experts_per_tok": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3_moe": {
        "moe_intermediate_size": 16,
        "num_experts": 4,
        "head_dim": 8,
        "mlp_only_layers": [0],
        **FEW,
    },
    "qwen2_moe": {
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 24,
        "num_experts": 4,
        **FEW,
    },
    "deepseek_v3": {
        **DENSE_FIRST,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
        "num_key_value_heads": 4,
    },
    "glm4_moe": {**DENSE_FIRST, "head_dim": 8},
    "olmoe": {"num_experts": 4, **FEW},
    "mixtral": {"num_local_experts": 4, **FEW},
    "granitemoe": {"num_local_experts": 4, **FEW},
    "granitemoeshared": {"num_local_experts": 4, "shared_intermediate_size": 24, **FEW},
}
MLP_ADAPTED = {"qwen3_moe", "qwen2_moe", "deepseek_v3", "glm4_moe", "granitemoeshared"}
"""Those with dense layers or shared experts."""


@pytest.fixture
def workspace(tmp_path: Path, request: pytest.FixtureRequest) -> Workspace:
    family: str = request.param
    torch.manual_seed(1)
    tokenizer = build_tokenizer()
    sizes = {"vocab_size": len(tokenizer), **SIZES, **FAMILIES[family]}
    folder = tmp_path / family
    config = AutoConfig.for_model(family, **sizes)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Workspace(tmp_path, folder)


def run(workspace: Workspace, **finetuning: Any) -> tuple[list[str], Path]:
    events = train(
        workspace.spec(
            CHATS[:8],
            finetuning={"lora_rank": 4, **finetuning},
            num_train_epochs=1,
            learning_rate=3e-2,
        )
    )
    last = events[-1]
    assert isinstance(last, Completed), last
    return [event.message for event in events if isinstance(event, Warned)], Path(last.path)


@torch.inference_mode()
def served_logits(base: Path, adapter: Path, ids: torch.Tensor) -> torch.Tensor:
    spec = EngineSpec(
        model_id="m",
        backend=BackendName.HF,
        listen="unix:/s",
        model_path=str(base),
        dtype="float32",
        device="cpu",
        max_loras=2,
        max_lora_rank=8,
    )
    loaded = load_model(spec, HfSettings())
    loaded.model.set_attn_implementation("sdpa")
    places = AdapterPlaces(loaded.lora_layers, 2, 16)
    rules = rules_of(BackendName.HF, 8)
    weights = read_adapter(
        AdapterRef("a", 1, str(adapter)), loaded.lora_layers, rules, loaded.dtype
    )
    assert places.acquire(weights)
    plan_adapters(loaded.adapter_step, [places.columns(weights)], [ids.numel()], loaded.device)
    return loaded.model(input_ids=ids, use_cache=False).logits


@pytest.mark.parametrize("workspace", FAMILIES, indirect=True)
def test_a_default_job_trains_what_is_served(workspace: Workspace) -> None:
    warned, adapter = run(workspace)
    assert [w for w in warned if "experts" in w and "not trained" in w]
    names = load_file(adapter / "adapter_model.safetensors")
    family = workspace.base.name
    assert any("mlp." in name for name in names) == (family in MLP_ADAPTED)
    assert not any(".experts." in name for name in names)
    ids = torch.randint(0, 250, (1, 24), generator=torch.Generator().manual_seed(4))
    base = AutoModelForCausalLM.from_pretrained(workspace.base, dtype=torch.float32)
    with torch.inference_mode():
        before = base(input_ids=ids, use_cache=False).logits
        tuned = PeftModel.from_pretrained(base, str(adapter)).eval()
        wanted = tuned(input_ids=ids, use_cache=False).logits
    assert torch.allclose(served_logits(workspace.base, adapter, ids), wanted, atol=1e-3)
    assert not torch.allclose(before, wanted, atol=1e-2)


@pytest.mark.parametrize("workspace", ["glm4_moe"], indirect=True)
def test_what_peft_trains_without_dropout_only_is_left_out_and_named(workspace: Workspace) -> None:
    warned, adapter = run(workspace, lora_dropout=0.1)
    assert any("down_proj, gate_proj, up_proj outside of the experts" in w for w in warned)
    names = load_file(adapter / "adapter_model.safetensors")
    assert not any("mlp." in name for name in names)


@pytest.mark.parametrize("workspace", ["glm4_moe"], indirect=True)
def test_named_layers_mean_the_linear_ones(workspace: Workspace) -> None:
    _, adapter = run(workspace, lora_target="q_proj,gate_proj")
    names = load_file(adapter / "adapter_model.safetensors")
    modules = {name.split("layers.")[1].split(".lora")[0] for name in names}
    assert modules == {
        "0.self_attn.q_proj",
        "1.self_attn.q_proj",
        "0.mlp.gate_proj",
        "1.mlp.shared_experts.gate_proj",
    }
    config = msgspec.json.decode((adapter / "adapter_config.json").read_bytes())
    assert config["target_modules"] == ["q_proj"]
    failed = train(
        workspace.spec(
            output_dir="other", finetuning={"lora_target": "gate_proj", "lora_dropout": 0.1}
        )
    )[-1]
    assert isinstance(failed, TrainFailed)
    assert failed.param == "lora_dropout"


@pytest.mark.parametrize("workspace", ["glm4_moe"], indirect=True)
def test_training_goes_on_from_such_an_adapter(workspace: Workspace) -> None:
    _, first = run(workspace)
    events = train(workspace.spec(output_dir="second", model={"adapter_name_or_path": str(first)}))
    assert isinstance(events[-1], Completed)
