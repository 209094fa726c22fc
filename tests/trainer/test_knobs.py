"""Parameters of a run by what they change, against the equivalent setting where there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.trainer.conftest import CHATS, Workspace, train
from workers.contract.training import (
    CheckpointSaved,
    Completed,
    Evaluated,
    Started,
    Step,
    TrainEvent,
    TrainFailed,
)
from workers.trainer.dataset import EncodedExamples
from workers.trainer.failures import InvalidHyperparameters
from workers.trainer.models import load_model
from workers.trainer.optimisation import build_optimisation
from workers.trainer.preparation import hold_out

_runs = 0


def events_with(workspace: Workspace, **groups: Any) -> list[TrainEvent]:
    """Of a run of four steps, each in a folder of its own."""
    global _runs
    _runs += 1
    rows = groups.pop("rows", CHATS[:16])
    given: dict[str, Any] = {"num_train_epochs": 1, **groups}
    return train(workspace.spec(rows, output_dir=f"run-{_runs}", **given))


def steps_of(events: list[TrainEvent]) -> list[Step]:
    return [event for event in events if isinstance(event, Step)]


def losses(events: list[TrainEvent]) -> list[float]:
    assert isinstance(events[-1], Completed), events[-1]
    return [step.metrics["train_loss"] for step in steps_of(events)]


def weights(events: list[TrainEvent]) -> dict[str, torch.Tensor]:
    last = events[-1]
    assert isinstance(last, Completed), last
    return load_file(next(Path(last.path).glob("*.safetensors")))


def refused(workspace: Workspace, **groups: Any) -> str | None:
    """The parameter that is named."""
    last = events_with(workspace, **groups)[-1]
    assert isinstance(last, TrainFailed)
    assert last.code == "invalid_hyperparameters"
    return last.param


def test_bf16_goes_before_what_the_operator_set(workspace: Workspace) -> None:
    operators = {"compute_dtype": "bfloat16"}
    plain = losses(events_with(workspace))
    low = losses(events_with(workspace, model=operators))
    assert low != plain
    assert losses(events_with(workspace, bf16=True)) == low
    assert losses(events_with(workspace, bf16=False, model=operators)) == plain


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_pure_bf16_holds_trained_weights_in_it(workspace: Workspace, kind: str) -> None:
    def is_low(**given: Any) -> bool:
        finetuning = {"finetuning_type": kind, **given.pop("finetuning", {})}
        found = weights(events_with(workspace, finetuning=finetuning, **given)).values()
        return all(torch.equal(each, each.bfloat16().to(each.dtype)) for each in found)

    assert is_low(finetuning={"pure_bf16": True})
    assert not is_low(bf16=True)


def test_fp16_is_refused(workspace: Workspace) -> None:
    assert refused(workspace, fp16=True) == "fp16"
    assert refused(workspace, bf16=True, finetuning={"pure_bf16": True}) == "pure_bf16"


def test_warmup_steps_go_before_the_ratio(workspace: Workspace) -> None:
    def rates(**given: Any) -> list[float]:
        return [step.learning_rate for step in steps_of(events_with(workspace, **given))]

    assert rates(warmup_steps=2, warmup_ratio=1.0) == rates(warmup_ratio=0.5)
    assert rates(warmup_steps=2)[:3] == [0.0, 5e-3, 1e-2]


@pytest.mark.parametrize(
    ("name", "value"), [("adam_beta1", 0.5), ("adam_beta2", 0.9), ("adam_epsilon", 1e-3)]
)
def test_adams_numbers_reach_it(workspace: Workspace, name: str, value: float) -> None:
    assert losses(events_with(workspace, **{name: value}))[2:] != losses(events_with(workspace))[2:]
    assert refused(workspace, optim="sgd", **{name: value}) == name


def test_max_samples_is_the_head_of_each_file(workspace: Workspace) -> None:
    held_out = workspace.write("held_out.jsonl", CHATS[16:])
    short = workspace.write("short.jsonl", CHATS[16:19])
    cut = events_with(
        workspace, rows=[*CHATS[:3], "{"], data={"max_samples": 3, "validation_file": held_out}
    )
    whole = events_with(workspace, rows=CHATS[:3], data={"validation_file": short})
    assert losses(cut) == losses(whole)
    assert [e.metrics for e in cut if isinstance(e, Evaluated)] == [
        e.metrics for e in whole if isinstance(e, Evaluated)
    ]


def test_val_size_holds_examples_out(workspace: Workspace) -> None:
    share = events_with(workspace, data={"val_size": 0.25})
    number = events_with(workspace, data={"val_size": 4})
    started = next(event for event in share if isinstance(event, Started))
    assert started.num_examples == 12
    assert "full_valid_loss" in next(e for e in share if isinstance(e, Evaluated)).metrics
    assert losses(share) == losses(number)
    assert refused(workspace, data={"val_size": 16}) == "val_size"
    assert refused(workspace, data={"val_size": 1.5}) == "val_size"
    both = {"val_size": 1, "validation_file": workspace.write("held_out.jsonl", CHATS[:2])}
    assert refused(workspace, data=both) == "val_size"


def test_what_is_held_out_is_the_seeds_and_not_trained_on() -> None:
    ids = [np.array([number], dtype=np.int32) for number in range(20)]
    examples = EncodedExamples([((each, each),) for each in ids], list(map(float, range(20))))
    stays, held = hold_out(examples, 5, seed=1)
    assert sorted([*stays.values, *held.values]) == examples.values
    assert len(held) == 5
    assert [int(held.sequences(index)[0][0][0]) for index in range(5)] == held.values
    assert hold_out(examples, 5, seed=1)[1].values == held.values
    assert hold_out(examples, 5, seed=2)[1].values != held.values
    assert len(hold_out(examples, 0.01, seed=1)[1]) == 1
    with pytest.raises(InvalidHyperparameters):
        hold_out(examples, 0.96, seed=1)


def test_strategies_say_when_to_evaluate_and_to_save(workspace: Workspace) -> None:
    def told(**given: Any) -> tuple[list[int], list[int]]:
        data = {"validation_file": workspace.write("held_out.jsonl", CHATS[:2])}
        events = events_with(workspace, data=data, num_train_epochs=2, **given)
        assert isinstance(events[-1], Completed)
        return (
            [event.step for event in events if isinstance(event, Evaluated)],
            [event.step for event in events if isinstance(event, CheckpointSaved)],
        )

    assert told() == ([4, 8], [4, 8])
    assert told(eval_strategy="no", save_strategy="no") == ([], [])
    assert told(eval_strategy="epoch", save_strategy="steps", save_steps=3) == ([4, 8], [3, 6, 8])
    assert refused(workspace, save_strategy="steps") == "save_steps"
    assert refused(workspace, eval_strategy="no", eval_steps=2) == "eval_steps"


def test_reports_tell_of_all_steps_since_the_last(workspace: Workspace) -> None:
    every = losses(events_with(workspace, logging_steps=1))
    some = steps_of(events_with(workspace, logging_steps=3))
    assert [step.step for step in some] == [3, 4]
    assert min(every[:3]) < some[0].metrics["train_loss"] < max(every[:3])
    assert some[1].metrics["train_loss"] == every[3]


def test_checkpointed_activations_change_nothing_but_what_is_kept(workspace: Workspace) -> None:
    found = weights(events_with(workspace, gradient_checkpointing=True))
    plain = weights(events_with(workspace))
    assert all(torch.equal(found[name], plain[name]) for name in plain)

    def passes(**given: Any) -> int:
        """Through a layer, for one gradient."""
        model, count = load_model(workspace.spec(**given)), 0

        def counted(*_: object) -> None:
            nonlocal count
            count += 1

        model.causal_lm.model.layers[0].self_attn.register_forward_hook(counted)
        model.module(torch.ones(1, 3, dtype=torch.long), use_cache=False).logits.sum().backward()
        return count

    assert passes() == passes(disable_gradient_checkpointing=True) == 1
    assert passes(gradient_checkpointing=True) == passes(disable_gradient_checkpointing=False) == 2
    both = {"gradient_checkpointing": True, "disable_gradient_checkpointing": True}
    assert refused(workspace, **both) == "disable_gradient_checkpointing"


def test_rslora_scales_by_the_root_of_the_rank(workspace: Workspace) -> None:
    def of(**finetuning: Any) -> list[float]:
        return losses(events_with(workspace, finetuning={"lora_rank": 4, **finetuning}))

    assert of(use_rslora=True, lora_alpha=8) == of(lora_alpha=16) != of(lora_alpha=8)


def test_dora_trains_lengths_and_its_adapter_answers_as_trained(workspace: Workspace) -> None:
    events = events_with(workspace, finetuning={"use_dora": True})
    assert losses(events)[1:] != losses(events_with(workspace))[1:]
    found = weights(events)
    assert any("lora_magnitude_vector" in name for name in found)
    base = AutoModelForCausalLM.from_pretrained(workspace.base)
    plain = base(torch.tensor([[65, 66, 67]])).logits
    last = events[-1]
    assert isinstance(last, Completed)
    adapted = PeftModel.from_pretrained(base, last.path)(torch.tensor([[65, 66, 67]])).logits
    assert (adapted - plain).abs().max() > 0.1


def test_second_factors_learn_by_so_much_faster(workspace: Workspace) -> None:
    spec = workspace.spec(
        finetuning={"loraplus_lr_ratio": 16.0, "use_dora": True}, weight_decay=0.1
    )
    model = load_model(spec)
    ours = build_optimisation(spec, model, 10).optimiser
    module: Any = model.module
    theirs = create_loraplus_optimizer(
        module, torch.optim.AdamW, lr=1e-2, loraplus_lr_ratio=16.0, loraplus_weight_decay=0.1
    )

    def settings(optimiser: torch.optim.Optimizer) -> dict[int, tuple[float, float]]:
        return {
            id(weight): (group.get("initial_lr", group["lr"]), group["weight_decay"])
            for group in optimiser.param_groups
            for weight in group["params"]
        }

    assert settings(ours) == settings(theirs)
    ratio = {"loraplus_lr_ratio": 16.0}
    events = events_with(workspace, finetuning=ratio)
    assert losses(events)[1:] != losses(events_with(workspace))[1:]
    assert steps_of(events)[0].learning_rate == 1e-2


def test_dft_weighs_by_the_probability(workspace: Workspace) -> None:
    plain, dft = (
        losses(events_with(workspace)),
        losses(events_with(workspace, finetuning={"use_dft_loss": True})),
    )
    assert 0 < dft[0] < 0.1 * plain[0]
    full = {"use_dft_loss": True, "finetuning_type": "full"}
    assert losses(events_with(workspace, finetuning=full))[0] == pytest.approx(dft[0], rel=1e-4)


def test_asft_anchors_to_the_model_without_its_adapter(workspace: Workspace) -> None:
    def of(noise: float | None = None, **finetuning: Any) -> list[float]:
        events = events_with(workspace, finetuning=finetuning, neftune_noise_alpha=noise)
        return losses(events)

    dft = of(use_dft_loss=True)
    asft = of(use_asft_loss=True, asft_alpha=0.5)
    assert asft[0] == pytest.approx(dft[0], rel=1e-5)
    assert asft[1:] != pytest.approx(dft[1:], rel=1e-3)
    assert of(use_asft_loss=True, asft_alpha=0.0) == dft
    noisy = [of(50.0, use_asft_loss=True)[0], of(50.0, use_dft_loss=True)[0]]
    assert noisy[0] > noisy[1], "the reference has no noise"


def test_eaft_weighs_by_the_entropy(workspace: Workspace) -> None:
    def of(**finetuning: Any) -> list[float]:
        return losses(events_with(workspace, finetuning=finetuning))

    plain = of()
    assert of(use_eaft_loss=True, eaft_alpha=0.0) == pytest.approx(plain, rel=1e-4)
    assert of(use_eaft_loss=True) != pytest.approx(plain, rel=1e-3)


def test_losses_exclude_each_other_and_their_alphas_need_them(workspace: Workspace) -> None:
    for finetuning, named in (
        ({"use_dft_loss": True, "use_eaft_loss": True}, "use_eaft_loss"),
        ({"use_asft_loss": True, "use_dft_loss": True}, "use_asft_loss"),
        ({"asft_alpha": 0.3}, "asft_alpha"),
        ({"use_dft_loss": True, "eaft_alpha": 0.3}, "eaft_alpha"),
        ({"use_asft_loss": True, "finetuning_type": "full"}, "use_asft_loss"),
        ({"use_dft_loss": True, "stage": "pt"}, "use_dft_loss"),
    ):
        assert refused(workspace, finetuning=finetuning) == named


def test_neftune_adds_noise_while_training_alone(workspace: Workspace) -> None:
    data = {"validation_file": workspace.write("held_out.jsonl", CHATS[:2])}
    noisy = events_with(workspace, neftune_noise_alpha=5.0, learning_rate=1e-9, data=data)
    plain = events_with(workspace, learning_rate=1e-9, data=data)
    assert losses(noisy) != losses(plain)
    measured = [
        next(event for event in events if isinstance(event, Evaluated)).metrics["full_valid_loss"]
        for events in (noisy, plain)
    ]
    assert measured[0] == pytest.approx(measured[1], rel=1e-5)
