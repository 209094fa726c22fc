"""Whole runs: stages, what they report and what they leave behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.trainer.conftest import (
    CHATS,
    Workspace,
    build_model,
    build_tokenizer,
    chat,
    events_of,
    log_of,
    start,
    train,
)
from workers.contract.training import (
    CheckpointSaved,
    Completed,
    Evaluated,
    Heartbeat,
    Started,
    Step,
    TrainEvent,
    TrainFailed,
    Warned,
)
from workers.trainer.run import run_file
from workers.trainer.stopping import StopRequest

TEXTS = [{"text": "the quick brown fox jumps over the lazy dog " * (1 + n % 3)} for n in range(24)]
FULL = {"finetuning_type": "full"}


def loss_of(step: Step) -> float:
    return step.metrics["train_loss"]


def steps_of(events: list[TrainEvent]) -> list[Step]:
    return [event for event in events if isinstance(event, Step)]


def completed(events: list[TrainEvent]) -> Path:
    last = events[-1]
    assert isinstance(last, Completed), last
    return Path(last.path)


def failure(events: list[TrainEvent]) -> TrainFailed:
    last = events[-1]
    assert isinstance(last, TrainFailed), last
    return last


def prompt_logits(model: Any, base: Path) -> torch.Tensor:
    tokenizer = AutoTokenizer.from_pretrained(base)
    ids = tokenizer("What is the sound?", return_tensors="pt").input_ids
    with torch.no_grad():
        return model.eval()(ids).logits


def test_lora_lowers_the_loss_and_reports_every_step(workspace: Workspace) -> None:
    events = train(workspace.spec(num_train_epochs=4))
    started = next(event for event in events if isinstance(event, Started))
    steps = steps_of(events)
    assert (started.total_steps, started.num_examples) == (20, 20)
    assert [step.step for step in steps] == list(range(1, 21))
    assert loss_of(steps[-1]) < 0.8 * loss_of(steps[0])
    assert (
        steps[-1].metrics["train_mean_token_accuracy"]
        > steps[0].metrics["train_mean_token_accuracy"]
    )
    assert steps[0].learning_rate == 1e-2
    assert steps[-1].remaining_s == 0
    assert "valid_loss" not in steps[0].metrics
    assert completed(events).name == "model"


def test_pretraining_from_scratch_lowers_the_loss(workspace: Workspace) -> None:
    spec = workspace.spec(
        TEXTS,
        model={"train_from_scratch": True},
        data={"packing": True, "cutoff_len": 128},
        finetuning={"stage": "pt", **FULL},
        num_train_epochs=4,
    )
    steps = steps_of(events := train(spec))
    assert loss_of(steps[0]) > 5
    assert loss_of(steps[-1]) < 0.7 * loss_of(steps[0])
    model = AutoModelForCausalLM.from_pretrained(completed(events))
    assert prompt_logits(model, completed(events)).isfinite().all()


def test_the_adapter_is_a_plain_peft_adapter(workspace: Workspace) -> None:
    folder = completed(train(workspace.spec(finetuning={"lora_rank": 4, "lora_alpha": 6})))
    assert sorted(file.name for file in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    config = msgspec.json.decode((folder / "adapter_config.json").read_bytes())
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (4, 6, "LORA")
    assert set(config["target_modules"]) == {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    }
    base = AutoModelForCausalLM.from_pretrained(workspace.base)
    before = prompt_logits(base, workspace.base)
    adapted = PeftModel.from_pretrained(base, str(folder))
    assert (prompt_logits(adapted, workspace.base) - before).abs().max() > 0.1


def test_a_named_lora_target_is_the_only_one(workspace: Workspace) -> None:
    folder = completed(train(workspace.spec(finetuning={"lora_target": "q_proj, down_proj"})))
    names = load_file(folder / "adapter_model.safetensors").keys()
    assert {name.split(".")[-3] for name in names} == {"q_proj", "down_proj"}


def test_checkpoints_are_servable_and_the_oldest_go(workspace: Workspace) -> None:
    spec = workspace.spec(num_train_epochs=5, save_total_limit=2)
    events = train(spec)
    saved = [event for event in events if isinstance(event, CheckpointSaved)]
    assert [event.step for event in saved] == [5, 10, 15, 20, 25]
    folder = Path(spec.output_dir) / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["step-20", "step-25"]
    assert saved[-1].metrics["train_loss"] == loss_of(steps_of(events)[-1])
    last, final = load_file(folder / "step-25" / "adapter_model.safetensors"), completed(events)
    assert all(
        torch.equal(tensor, last[name])
        for name, tensor in load_file(final / "adapter_model.safetensors").items()
    )
    base = AutoModelForCausalLM.from_pretrained(workspace.base)
    PeftModel.from_pretrained(base, str(folder / "step-20"))


def test_validation_is_reported_by_step_and_by_pass(workspace: Workspace) -> None:
    held_out = workspace.write("held_out.jsonl", CHATS[:6])
    events = train(workspace.spec(data={"validation_file": held_out}, eval_steps=3))
    steps = steps_of(events)
    assert all("valid_loss" in step.metrics for step in steps)
    passes = [event for event in events if isinstance(event, Evaluated)]
    assert [event.step for event in passes] == [3, 6, 9, 10]
    saved = [event for event in events if isinstance(event, CheckpointSaved)]
    assert "full_valid_loss" not in saved[0].metrics
    assert saved[1].metrics["full_valid_loss"] == passes[-1].metrics["full_valid_loss"]
    assert passes[-1].metrics["full_valid_loss"] < passes[0].metrics["full_valid_loss"]


def test_full_training_keeps_dtype_tokenizer_and_template(
    workspace: Workspace, tmp_path: Path
) -> None:
    base = tmp_path / "bf16"
    tokenizer = build_tokenizer()
    build_model(len(tokenizer), dtype="bfloat16").to(torch.bfloat16).save_pretrained(base)
    tokenizer.save_pretrained(base)
    workspace.base = base
    folder = completed(train(workspace.spec(finetuning=FULL, learning_rate=1e-3)))
    tensors = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert tensors.keys() == load_file(base / "model.safetensors").keys()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (folder / name).read_bytes() == (base / name).read_bytes()
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    before = AutoModelForCausalLM.from_pretrained(base)
    assert not torch.equal(prompt_logits(model, base), prompt_logits(before, base))


def test_training_goes_on_from_an_adapter(workspace: Workspace) -> None:
    first = train(workspace.spec(output_dir="first"))
    second = train(
        workspace.spec(output_dir="second", model={"adapter_name_or_path": str(completed(first))})
    )
    assert loss_of(steps_of(second)[0]) < 0.85 * loss_of(steps_of(first)[0])
    assert loss_of(steps_of(second)[-1]) < loss_of(steps_of(first)[-1])


def test_an_earlier_adapter_keeps_its_shape_and_says_so(workspace: Workspace) -> None:
    first = train(workspace.spec(output_dir="first", finetuning={"lora_rank": 4}))
    assert not any(isinstance(event, Warned) for event in first)
    second = train(
        workspace.spec(
            output_dir="second",
            model={"adapter_name_or_path": str(completed(first))},
            finetuning={"lora_dropout": 0.25},
        )
    )
    (warned,) = (event.message for event in second if isinstance(event, Warned))
    assert warned.endswith("rank 4, alpha 8.")
    config = msgspec.json.decode((completed(second) / "adapter_config.json").read_bytes())
    assert (config["r"], config["lora_dropout"]) == (4, 0.25)


def test_an_adapter_that_is_none_is_named(workspace: Workspace) -> None:
    failed = failure(train(workspace.spec(model={"adapter_name_or_path": str(workspace.base)})))
    assert (failed.code, failed.param) == ("internal_error", "adapter_name_or_path")


def test_full_training_goes_on_from_a_merged_adapter_and_from_a_full_model(
    workspace: Workspace,
) -> None:
    first = train(workspace.spec(output_dir="first"))
    merged = train(
        workspace.spec(
            output_dir="merged",
            model={"adapter_name_or_path": str(completed(first))},
            finetuning=FULL,
            learning_rate=1e-3,
        )
    )
    assert loss_of(steps_of(merged)[0]) < 0.85 * loss_of(steps_of(first)[0])
    workspace.base = completed(merged)
    again = train(workspace.spec(output_dir="again", finetuning=FULL, learning_rate=1e-3))
    assert loss_of(steps_of(again)[0]) < loss_of(steps_of(merged)[0])


def test_cut_and_empty_examples_are_warned_of_by_line(workspace: Workspace) -> None:
    rows = [*CHATS[:3], chat("x" * 200, "y"), chat("Hi", "z" * 200)]
    events = train(workspace.spec(rows, data={"cutoff_len": 100}))
    cut, dropped = (event.message for event in events if isinstance(event, Warned))
    assert cut.endswith(
        "longer than 100 tokens (cutoff_len; the model's context is 512) and were cut: lines 4, 5."
    )
    assert dropped.endswith("were left out: line 4.")
    assert next(e for e in events if isinstance(e, Started)).num_examples == 4


def test_all_bad_lines_are_reported(workspace: Workspace) -> None:
    bad: list[object] = ["not json", {"messages": []}, {"messages": [{"content": "x"}]}]
    secret = {"messages": [{"role": "user", "content": "a secret"}]}
    failed = failure(train(workspace.spec([*CHATS, *bad, *[secret] * 20])))
    assert (failed.code, failed.param) == ("invalid_training_file", "training_file")
    assert "Example 21 cannot be parsed. Error: line contains invalid json" in failed.message
    assert "Example 23, message 1 Discriminator 'role' is missing in value" in failed.message
    assert "Examples 24, 25, " in failed.message
    assert failed.message.endswith("(23 bad lines in all)")
    assert "secret" not in failed.message


def test_nothing_to_learn_says_which_limit_cut_how_many(workspace: Workspace) -> None:
    long = chat("x" * 600, "y")
    failed = failure(train(workspace.spec([long] * 12)))
    assert failed.code == "invalid_training_file"
    assert failed.message.startswith(
        "The job failed due to an invalid training file. No example has anything to learn from: "
        "12 of 12 are longer than 512 tokens (cutoff_len; the model's context is 512)"
    )
    unlearned = chat("x", "y", weight=1)
    unlearned["messages"] += [*chat("x", "y", weight=0)["messages"]]
    failed = failure(train(workspace.spec([unlearned] * 12, data={"mask_history": True})))
    assert "12 have no answer that counts" in failed.message


def test_a_bad_validation_file_is_named_as_such(workspace: Workspace) -> None:
    bad = workspace.write("bad.jsonl", [{"prompt": 3}])
    failed = failure(train(workspace.spec(data={"validation_file": bad})))
    assert (failed.code, failed.param) == ("invalid_validation_file", "validation_file")


@pytest.mark.parametrize(
    ("param", "arguments"),
    [
        ("lora_target", {"finetuning": {"lora_target": "q_proj,nothing"}}),
        ("mask_history", {"data": {"mask_history": True, "train_on_prompt": True}}),
        ("mask_history", {"data": {"mask_history": True}, "finetuning": {"stage": "pt"}}),
        ("device", {"model": {"device": "cuda:0"}}),
        ("template", {"model": {"template": "no_such_template"}}),
        ("train_from_scratch", {"model": {"train_from_scratch": True}}),
    ],
)
def test_arguments_that_cannot_be_honoured_are_named(
    workspace: Workspace, param: str, arguments: dict[str, Any]
) -> None:
    if param == "device" and torch.cuda.is_available():
        pytest.skip("there is such a device")
    failed = failure(train(workspace.spec(**arguments)))
    assert (failed.code, failed.param) == ("invalid_hyperparameters", param)


@pytest.mark.parametrize(
    ("group", "param", "value"),
    [
        ("training", "optim", "adam_of_my_own"),
        ("training", "lr_scheduler_type", "random"),
        ("training", "learning_rate", -1.0),
        ("training", "max_steps", 0),
        ("training", "save_total_limit", 0),
        ("training", "warmup_ratio", 1.5),
        ("training", "colour", "red"),
        ("finetuning", "lora_dropout", 1.0),
        ("data", "cutoff_len", 1),
        ("model", "compute_dtype", "float8"),
    ],
)
def test_values_out_of_their_declared_range_end_the_run_before_it_begins(
    workspace: Workspace, group: str, param: str, value: object
) -> None:
    spec = workspace.spec()
    content = msgspec.to_builtins(spec)
    content[group][param] = value
    path = workspace.folder / "spec.json"
    path.write_bytes(msgspec.json.encode(content))
    assert not run_file(path, StopRequest())
    failed = failure(events_of(spec))
    assert failed.code == "invalid_hyperparameters"
    assert param in (failed.param or failed.message)


@pytest.mark.parametrize(
    "optim", ["adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"]
)
def test_every_optimiser_trains(workspace: Workspace, optim: str) -> None:
    rate = {"sgd": 1.0, "rmsprop": 1e-3}.get(optim, 1e-2)
    steps = steps_of(train(workspace.spec(optim=optim, learning_rate=rate, num_train_epochs=4)))
    assert loss_of(steps[-1]) < 0.95 * loss_of(steps[0])


def test_bfloat16_compute_trains(workspace: Workspace) -> None:
    for kind in ("lora", "full"):
        spec = workspace.spec(
            output_dir=kind,
            model={"compute_dtype": "bfloat16"},
            finetuning={"finetuning_type": kind},
            num_train_epochs=4,
        )
        steps = steps_of(train(spec))
        assert loss_of(steps[-1]) < 0.8 * loss_of(steps[0])


def test_a_missing_model_fails_without_a_trace_in_the_message(workspace: Workspace) -> None:
    workspace.base = workspace.folder / "nowhere"
    process = start(spec := workspace.spec())
    assert process.wait(120) == 1
    failed = failure(train_events := events_of(spec))
    assert failed.message == "The base model cannot be loaded."
    assert [event.seq for event in train_events] == list(range(1, len(train_events) + 1))
    assert not any(isinstance(event, Heartbeat) for event in train_events[-1:])
    assert "What is the sound" not in log_of(spec).read_text()
