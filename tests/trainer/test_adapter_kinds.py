"""Which weights each kind of fine-tuning trains, and that its result answers as it was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.trainer.conftest import CHATS, Workspace, start, train
from tests.trainer.test_resume import DEADLINE_S, assert_same_run, has_step, wait_for
from workers.contract.parameters import Stage
from workers.contract.training import Completed, TrainFailed, TrainSpec
from workers.trainer.failures import InvalidHyperparameters
from workers.trainer.models import load_model
from workers.trainer.stages.stage import TrainingStage
from workers.trainer.stages.table import STAGES

IDS = torch.tensor([[65, 66, 67, 68]])
FREEZE = {"finetuning_type": "freeze"}
OFT = {"finetuning_type": "oft"}
PISSA = {"pissa_init": True, "pissa_iter": 4, "lora_rank": 4}
KINDS: dict[str, dict[str, Any]] = {
    "freeze": {**FREEZE, "freeze_trainable_layers": 1},
    "freeze parts": {
        **FREEZE,
        "freeze_trainable_layers": -1,
        "freeze_trainable_modules": "mlp",
        "freeze_extra_modules": "norm",
    },
    "oft": {**OFT, "oft_block_size": 16, "module_dropout": 0.1},
    "merged": {"merge": "always"},
    "whole embeddings": {"additional_target": "embed_tokens"},
    "pissa": PISSA,
    "pissa converted": {**PISSA, "pissa_convert": True},
    "pissa converted rslora": {**PISSA, "pissa_convert": True, "use_rslora": True},
}


def spec_of(workspace: Workspace, finetuning: dict[str, Any], name: str = "run") -> TrainSpec:
    return workspace.spec(
        CHATS[:8],
        output_dir=name,
        finetuning=finetuning,
        num_train_epochs=3,
        learning_rate=1e-3,
        plot_loss=False,
        save_steps=2,
        save_total_limit=10,
    )


def trained(workspace: Workspace, finetuning: dict[str, Any]) -> set[str]:
    return {name for name, _ in load_model(spec_of(workspace, finetuning)).trainable()}


def logits(module: Any) -> torch.Tensor:
    module.eval()
    with torch.no_grad():
        return module(IDS).logits


def served(workspace: Workspace, path: str) -> Any:
    if (Path(path) / "adapter_config.json").exists():
        base = AutoModelForCausalLM.from_pretrained(workspace.base)
        return PeftModel.from_pretrained(base, path)
    return AutoModelForCausalLM.from_pretrained(path)


def nudged(stage: TrainingStage) -> torch.Tensor:
    """The logits of the model once every trained weight has moved a little."""
    torch.manual_seed(7)
    with torch.no_grad():
        for _, weight in stage.model.trainable():
            weight.add_(torch.randn_like(weight) * 0.02)
    return logits(stage.model.module)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_answers_as_what_was_trained(workspace: Workspace, kind: str) -> None:
    stage = STAGES[Stage.SFT](spec_of(workspace, KINDS[kind]))
    before = logits(AutoModelForCausalLM.from_pretrained(workspace.base))
    assert torch.allclose(logits(stage.model.module), before, atol=1e-4)
    expected = nudged(stage)
    assert (expected - before).abs().max() > 1e-2
    folder = workspace.folder / "written"
    folder.mkdir()
    stage.export(folder)
    assert torch.allclose(logits(served(workspace, str(folder))), expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["freeze parts", "oft", "whole embeddings", "pissa"])
def test_a_killed_run_of_each_kind_goes_on_with_the_same_curve(
    workspace: Workspace, kind: str
) -> None:
    whole, killed = (spec_of(workspace, KINDS[kind], name) for name in ("whole", "killed"))
    train(whole)
    process = start(killed)
    wait_for(process, has_step(killed, 3))
    process.kill()
    process.wait()
    assert start(killed).wait(DEADLINE_S) == 0
    assert_same_run(killed, whole)


def test_the_layers_that_are_named_are_trained_and_no_other(workspace: Workspace) -> None:
    def layers(**given: Any) -> set[str]:
        return {
            name.removeprefix("model.").removeprefix("layers.")[:6]
            for name in trained(workspace, {**FREEZE, **given})
        }

    assert {name[:1] for name in layers(freeze_trainable_layers=1)} == {"1"}
    assert {name[:1] for name in layers(freeze_trainable_layers=-1)} == {"0"}
    assert layers(freeze_trainable_layers=1, freeze_trainable_modules="mlp") == {"1.mlp."}
    assert "norm.w" in layers(freeze_extra_modules="norm")


def test_a_new_adapter_is_trained_on_the_merged_earlier_one(workspace: Workspace) -> None:
    first = train(spec_of(workspace, {}, "first"))[-1]
    assert isinstance(first, Completed)
    model = {"adapter_name_or_path": first.path}
    spec = workspace.spec(
        CHATS[:8],
        output_dir="second",
        model=model,
        finetuning={"create_new_adapter": True, "lora_rank": 3},
        num_train_epochs=1,
    )
    earlier = logits(served(workspace, first.path))
    assert torch.allclose(logits(load_model(spec).module), earlier, atol=1e-4)
    last = train(spec)[-1]
    assert isinstance(last, Completed)
    assert not (Path(last.path) / "adapter_config.json").exists()
    assert (logits(served(workspace, last.path)) - earlier).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("finetuning", "name"),
    [
        ({**FREEZE, "freeze_trainable_modules": "attention"}, "freeze_trainable_modules"),
        ({**FREEZE, "freeze_extra_modules": "mlp"}, "freeze_extra_modules"),
        ({**FREEZE, "lora_rank": 4}, "lora_rank"),
        ({**FREEZE, "freeze_trainable_layers": 0}, "freeze_trainable_layers"),
        ({"additional_target": "head"}, "additional_target"),
        ({**OFT, "oft_target": "none"}, "oft_target"),
        ({**OFT, "merge": "never"}, "finetuning_type"),
        ({"pissa_init": True, "merge": "never"}, "pissa_init"),
        ({"additional_target": "lm_head", "merge": "never"}, "additional_target"),
        ({"pissa_convert": True}, "pissa_convert"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    workspace: Workspace, finetuning: dict[str, Any], name: str
) -> None:
    last = train(spec_of(workspace, finetuning))[-1]
    assert isinstance(last, TrainFailed)
    assert last.code == InvalidHyperparameters.code
    assert last.param == name
