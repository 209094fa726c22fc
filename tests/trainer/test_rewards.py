"""Training of reward models: what the run leaves scores as it did in training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from tests.trainer.conftest import Workspace, build_tokenizer, train
from tests.trainer.test_pairs import ROWS, steps
from workers.contract.training import Evaluated, TrainSpec
from workers.trainer.exports import copy_in_main_memory
from workers.trainer.stages.rm import RewardPairs


def spec_of(workspace: Workspace, output_dir: str = "run", **finetuning: Any) -> TrainSpec:
    is_full = finetuning.get("finetuning_type") == "full"
    return workspace.spec(
        ROWS,
        output_dir=output_dir,
        data={"validation_file": workspace.write("held_out.jsonl", ROWS[:6])},
        finetuning={"stage": "rm", **({} if is_full else {"lora_rank": 4}), **finetuning},
        num_train_epochs=4,
        learning_rate=1e-3 if is_full else 1e-2,
        lr_scheduler_type="constant",
    )


def rewards(folder: Path, texts: list[str]) -> list[float]:
    """By transformers and the file's own names."""
    model = AutoModel.from_pretrained(folder).eval()
    head = load_file(folder / "value_head.safetensors")
    tokenizer = build_tokenizer()
    found: list[float] = []
    for text in texts:
        ids = torch.tensor([tokenizer(text).input_ids])
        with torch.no_grad():
            last = model(ids).last_hidden_state[0, -1].float()
        found.append(float(head["v_head.summary.weight"][0] @ last + head["v_head.summary.bias"]))
    return found


def text(row: dict[str, Any], side: str) -> str:
    messages = [*row["input"]["messages"], *row[side]]
    return str(build_tokenizer().apply_chat_template(messages, tokenize=False))


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_what_is_left_gives_the_rewards_of_the_run(workspace: Workspace, kind: str) -> None:
    spec = spec_of(workspace, finetuning_type=kind)
    events = train(spec)
    first, *_, last = steps(events)
    assert last["train_loss"] < min(first["train_loss"], 0.3)
    assert last["train_reward_accuracy"] == 1.0
    told = [event for event in events if isinstance(event, Evaluated)][-1].metrics
    folder = Path(spec.output_dir) / "model"
    chosen = rewards(folder, [text(row, "preferred_output") for row in ROWS[:6]])
    rejected = rewards(folder, [text(row, "non_preferred_output") for row in ROWS[:6]])
    assert all(c > r for c, r in zip(chosen, rejected, strict=True))
    margins = [c - r for c, r in zip(chosen, rejected, strict=True)]
    losses = [math.log1p(math.exp(-margin)) for margin in margins]
    assert told["full_valid_loss"] == pytest.approx(sum(losses) / 6, abs=2e-3)
    assert told["full_valid_reward_margin"] == pytest.approx(sum(margins) / 6, abs=2e-2)
    assert told["full_valid_reward_chosen"] == pytest.approx(sum(chosen) / 6, abs=2e-2)
    assert not (folder / "adapter_config.json").exists()


def test_a_checkpoint_on_the_way_changes_nothing_of_the_run(workspace: Workspace) -> None:
    often = spec_of(workspace, "often", use_dora=True)
    often = msgspec.structs.replace(
        often, training=msgspec.structs.replace(often.training, save_steps=2)
    )
    once = spec_of(workspace, "once", use_dora=True)
    assert steps(train(often)) == steps(train(once))


def test_a_reward_model_goes_on_from_its_own_head(workspace: Workspace) -> None:
    first = spec_of(workspace, "first")
    learned = [event for event in train(first) if isinstance(event, Evaluated)][-1]
    model = {"model_name_or_path": str(Path(first.output_dir) / "model")}
    spec = workspace.spec(
        ROWS[:6],
        output_dir="second",
        model=model,
        finetuning={"stage": "rm"},
        max_steps=1,
        per_device_train_batch_size=6,
    )
    (step,) = steps(train(spec))
    assert step["train_loss"] == pytest.approx(learned.metrics["full_valid_loss"], abs=2e-3)


def test_a_reward_model_is_copied_for_its_export_in_main_memory(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deep copy of a parameter would be on the parameter's own device."""
    stage = RewardPairs.open(spec_of(workspace))
    with torch.no_grad():
        for name, weight in stage.model.trainable():
            if "lora_B" in name:
                weight.fill_(0.05)
    before = {name: each.clone() for name, each in stage.model.module.state_dict().items()}

    def refuse(*_: Any) -> None:
        raise AssertionError("copied on its device")

    monkeypatch.setattr(torch.nn.Parameter, "__deepcopy__", refuse)
    monkeypatch.setattr(torch.Tensor, "__deepcopy__", refuse)
    stage.export(tmp_path)
    after = stage.model.module.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], each) for name, each in before.items())
    assert math.isfinite(rewards(tmp_path, [text(ROWS[0], "preferred_output")])[0])


def test_tied_weights_stay_tied_in_a_copy() -> None:
    first, second = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    second.weight = first.weight
    copied = copy_in_main_memory(torch.nn.Sequential(first, second))
    assert copied[0].weight is copied[1].weight
    assert copied[0].weight is not first.weight
    assert torch.equal(copied[0].weight, first.weight)
