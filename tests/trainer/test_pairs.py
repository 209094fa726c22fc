"""Training on preferences: what a run measures, what each of its parameters changes, resuming."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from templates.examples import PreferenceExample
from templates.preferences import read_preference
from tests.trainer.conftest import Workspace, build_tokenizer, start, train
from tests.trainer.test_resume import (
    DEADLINE_S,
    assert_same_run,
    final_weights,
    has_step,
    wait_for,
)
from workers.contract.training import Completed, Evaluated, Step, TrainEvent, TrainFailed, TrainSpec
from workers.trainer.dataset import IGNORED, EncodedExamples, Window, load_file
from workers.trainer.stages.pairs import Pairs


def pair(question: str, preferred: str, other: str) -> dict[str, Any]:
    return {
        "input": {"messages": [{"role": "user", "content": question}]},
        "preferred_output": [{"role": "assistant", "content": preferred}],
        "non_preferred_output": [{"role": "assistant", "content": other}],
    }


ROWS = [pair(f"Say {n}.", f"{n}, gladly", f"No{'!' * (n % 4)}") for n in range(12)]


def spec_of(workspace: Workspace, output_dir: str = "run", **finetuning: Any) -> TrainSpec:
    is_full = finetuning.get("finetuning_type") == "full"
    return workspace.spec(
        ROWS,
        output_dir=output_dir,
        finetuning={"stage": "dpo", **({} if is_full else {"lora_rank": 4}), **finetuning},
        num_train_epochs=2,
        learning_rate=5e-4 if is_full else 5e-3,
        lr_scheduler_type="constant",
    )


def steps(events: list[TrainEvent]) -> list[dict[str, float]]:
    assert isinstance(events[-1], Completed), events[-1]
    return [event.metrics for event in events if isinstance(event, Step)]


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_the_loss_begins_at_log_2_and_falls_while_the_margin_rises(
    workspace: Workspace, kind: str
) -> None:
    first, *_, last = steps(train(spec_of(workspace, finetuning_type=kind)))
    assert first["train_loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert first["train_reward_margin"] == pytest.approx(0, abs=1e-3)
    assert last["train_loss"] < first["train_loss"] - 0.05
    assert last["train_reward_margin"] > 0.1
    assert last["train_reward_accuracy"] == 1.0
    assert last["train_reward_margin"] == pytest.approx(
        last["train_reward_chosen"] - last["train_reward_rejected"], abs=1e-5
    )


def test_a_continued_adapter_is_its_own_reference(workspace: Workspace) -> None:
    train(spec_of(workspace, "first"))
    adapter = str(workspace.folder / "first" / "model")
    spec = workspace.spec(
        ROWS,
        output_dir="second",
        model={"adapter_name_or_path": adapter},
        finetuning={"stage": "dpo", "lora_rank": 4},
        max_steps=1,
    )
    (step,) = steps(train(spec))
    assert step["train_loss"] == pytest.approx(math.log(2), abs=1e-4)


CHANGES: list[dict[str, Any]] = [
    {},
    {"pref_loss": "hinge"},
    {"pref_loss": "ipo"},
    {"pref_loss": "kto_pair"},
    {"pref_loss": "orpo"},
    {"pref_loss": "simpo"},
    {"pref_loss": "simpo", "simpo_gamma": 2.0},
    {"pref_beta": 1.0},
    {"pref_ftx": 0.5},
    {"dpo_label_smoothing": 0.3},
]


def test_every_parameter_changes_the_result(workspace: Workspace) -> None:
    runs: list[dict[str, torch.Tensor]] = []
    for number, changed in enumerate(CHANGES):
        spec = spec_of(workspace, f"run-{number}", **changed)
        first, *_, last = steps(train(spec))
        assert last["train_reward_margin"] > first["train_reward_margin"], changed
        assert last["train_loss"] < first["train_loss"], changed
        runs.append(final_weights(spec))
    for number, ours in enumerate(runs):
        for theirs in runs[:number]:
            assert any(not torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_parameter_of_another_loss_or_stage_is_refused(workspace: Workspace) -> None:
    for changed, name in (
        ({"pref_loss": "ipo", "dpo_label_smoothing": 0.1}, "dpo_label_smoothing"),
        ({"simpo_gamma": 1.0}, "simpo_gamma"),
        ({"stage": "sft", "pref_ftx": 1.0}, "pref_ftx"),
        ({"stage": "sft", "pref_beta": 1.0}, "pref_beta"),
    ):
        last = train(spec_of(workspace, f"{name}-run", **changed))[-1]
        assert isinstance(last, TrainFailed)
        assert (last.code, last.param) == ("invalid_hyperparameters", name)


def test_the_validation_file_is_measured_by_the_same_reference(workspace: Workspace) -> None:
    held_out = workspace.write("held_out.jsonl", ROWS[:5])
    spec = workspace.spec(
        ROWS,
        data={"validation_file": held_out},
        finetuning={"stage": "dpo"},
        num_train_epochs=1,
        learning_rate=1e-9,
    )
    events = train(spec)
    (evaluated,) = [event for event in events if isinstance(event, Evaluated)]
    assert evaluated.metrics["full_valid_loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert steps(events)[0]["valid_loss"] == pytest.approx(math.log(2), abs=1e-4)


def test_a_run_that_is_stopped_resumes_with_the_same_curve(workspace: Workspace) -> None:
    def long(output_dir: str) -> TrainSpec:
        return workspace.spec(
            ROWS,
            output_dir=output_dir,
            data={"validation_file": workspace.write("held_out.jsonl", ROWS[:5])},
            finetuning={"stage": "dpo", "lora_dropout": 0.1},
            num_train_epochs=5,
            save_steps=5,
            save_total_limit=10,
        )

    whole, stopped = long("whole"), long("stopped")
    assert isinstance(train(whole)[-1], Completed)
    process = start(stopped)
    wait_for(process, has_step(stopped, 6))
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE_S) == 0
    assert start(stopped).wait(DEADLINE_S) == 0
    assert_same_run(stopped, whole)


def loaded(
    workspace: Workspace, rows: list[dict[str, Any]], cutoff_len: int = 512
) -> EncodedExamples:
    spec = workspace.spec(rows, finetuning={"stage": "dpo"})
    stage = Pairs.open(spec)
    window = Window(cutoff_len, None)
    file = load_file(
        Path(spec.data.train_file), stage, window, is_validation=False, between_lines=lambda: None
    )
    stage.prepare(file.examples, lambda: None)
    return file.examples


def test_the_reference_is_the_base_s_log_probability_of_each_answer(
    workspace: Workspace, base: Path
) -> None:
    examples = loaded(workspace, ROWS)
    model = AutoModelForCausalLM.from_pretrained(base)
    assert examples.references is not None
    for index in range(len(examples)):
        for side, (ids, labels) in enumerate(examples.sequences(index)):
            with torch.no_grad():
                logits = model(torch.from_numpy(ids).long()[None]).logits[0]
            log_p = torch.log_softmax(logits, -1)
            wanted = sum(
                float(log_p[at - 1, label]) for at, label in enumerate(labels) if label != IGNORED
            )
            assert float(examples.references[index, side]) == pytest.approx(wanted, rel=1e-4)


def test_both_answers_of_a_pair_keep_the_same_prompt_when_they_are_cut(
    workspace: Workspace,
) -> None:
    examples = loaded(workspace, [pair("why " * 60, "because " * 40, "no")], cutoff_len=64)
    (chosen, chosen_labels), (rejected, rejected_labels) = examples.sequences(0)
    prompts = [int((labels == IGNORED).sum()) for labels in (chosen_labels, rejected_labels)]
    assert prompts[0] == prompts[1]
    assert (chosen[: prompts[0]] == rejected[: prompts[0]]).all()
    assert len(chosen) == 64
    assert len(rejected) < 64


def test_only_the_answers_differ_and_only_they_are_learned(workspace: Workspace) -> None:
    row = pair("Say 1.", "one", "none")
    history = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    row["input"]["messages"] = [*history, *row["input"]["messages"]]
    sides = loaded(workspace, [row]).sequences(0)
    learned = [labels[labels != IGNORED].tolist() for _, labels in sides]
    tokenizer = build_tokenizer()
    assert [tokenizer.decode(ids) for ids in learned] == ["one<|im_end|>\n", "none<|im_end|>\n"]
    (prompt,) = {str(tokenizer.decode(ids[labels == IGNORED])) for ids, labels in sides}
    assert "Hello" in prompt
    assert prompt.endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize("spelling", ["output", "completion"])
def test_both_spellings_are_read(spelling: str) -> None:
    row = pair("Say 1.", "one", "none")
    named = {
        "input": row["input"],
        f"preferred_{spelling}": row["preferred_output"],
        f"non_preferred_{spelling}": row["non_preferred_output"],
        "id": 7,
    }
    read = read_preference(json.dumps(named))
    assert isinstance(read, PreferenceExample)
    assert [c.messages[-1].text for c in read.conversations] == ["one", "none"]
    assert read.notes.ignored_columns == ["id"]
