"""Training on labelled answers: what a run measures, what each of its parameters changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from templates.example_fields import ExampleError
from templates.labelled import read_labelled
from tests.trainer.conftest import Workspace, build_tokenizer, chat, train
from tests.trainer.test_pairs import steps
from tests.trainer.test_resume import final_weights
from workers.contract.training import TrainFailed, TrainSpec
from workers.trainer.dataset import IGNORED, EncodedExample, EncodedExamples, Window, load_file
from workers.trainer.stages.kto import LabelledAnswers


def labelled(question: str, answer: str, label: bool) -> dict[str, Any]:
    return {**chat(question, answer), "label": label}


ROWS = [
    labelled(f"Say {n}.", f"{n}, gladly" if n % 3 else f"No{'!' * n}", bool(n % 3))
    for n in range(12)
]


def spec_of(workspace: Workspace, output_dir: str = "run", **finetuning: Any) -> TrainSpec:
    return workspace.spec(
        ROWS,
        output_dir=output_dir,
        finetuning={"stage": "kto", "lora_rank": 4, **finetuning},
        num_train_epochs=2,
        learning_rate=5e-3,
        lr_scheduler_type="constant",
    )


def stage_and_examples(
    workspace: Workspace, rows: list[dict[str, Any]], cutoff_len: int = 512, **finetuning: Any
) -> tuple[LabelledAnswers, EncodedExamples]:
    spec = workspace.spec(rows, finetuning={"stage": "kto", **finetuning})
    stage = LabelledAnswers.open(spec)
    window = Window(cutoff_len, None)
    file = load_file(
        Path(spec.data.train_file), stage, window, is_validation=False, between_lines=lambda: None
    )
    stage.prepare(file.examples, lambda: None)
    return stage, file.examples


def log_p(model: Any, ids: Any, labels: Any) -> float:
    with torch.no_grad():
        logits = model(torch.from_numpy(ids).long()[None]).logits[0]
    all_log_p = torch.log_softmax(logits, -1)
    return sum(
        float(all_log_p[at - 1, label]) for at, label in enumerate(labels) if label != IGNORED
    )


def test_each_prompt_is_beside_the_answer_of_the_row_before(workspace: Workspace) -> None:
    _, examples = stage_and_examples(workspace, ROWS[:4])
    tokenizer = build_tokenizer()
    found = [[tokenizer.decode(ids) for ids, _ in examples.sequences(n)] for n in range(4)]
    prompts = [f"<|im_start|>user\nSay {n}.<|im_end|>\n<|im_start|>assistant\n" for n in range(4)]
    answers = [row["messages"][1]["content"] + "<|im_end|>\n" for row in ROWS[:4]]
    assert found == [[prompts[n] + answers[n], prompts[n] + answers[n - 1]] for n in range(4)]
    assert examples.values == [float(row["label"]) for row in ROWS[:4]]
    for n in range(4):
        learned = [tokenizer.decode(ls[ls != IGNORED]) for _, ls in examples.sequences(n)]
        assert learned == [answers[n], answers[n - 1]]


def test_a_row_alone_in_its_chunk_is_beside_the_answer_of_the_chunk_before(
    workspace: Workspace,
) -> None:
    stage = LabelledAnswers.open(workspace.spec(ROWS, finetuning={"stage": "kto"}))
    tokenizer = build_tokenizer()
    rows = [stage.read(json.dumps(row).encode()) for row in ROWS[:4]]
    answers = [row["messages"][1]["content"] + "<|im_end|>\n" for row in ROWS[:4]]
    found: list[str] = []
    for chunk in (rows[:3], rows[3:]):
        for encoded in stage.encode(chunk, 512):
            assert isinstance(encoded, list)
            (example,) = encoded
            assert isinstance(example, EncodedExample)
            labels = example.sequences[1].labels
            found.append(str(tokenizer.decode([label for label in labels if label != IGNORED])))
    assert found == [answers[2], answers[0], answers[1], answers[2]]


def test_the_loss_is_the_formula_s_over_the_model_s_own_log_probabilities(
    workspace: Workspace, base: Path
) -> None:
    stage, examples = stage_and_examples(
        workspace,
        ROWS[:5],
        kto_chosen_weight=1.5,
        kto_rejected_weight=0.5,
        pref_beta=0.7,
        pref_ftx=0.2,
    )
    reference = AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(4)
    with torch.no_grad():
        for name, weight in stage.model.trainable():
            if "lora_B" in name:
                weight.copy_(torch.randn_like(weight) * 0.05)
    policy = stage.model.module.eval()
    ratios, drifts, losses = [], [], []
    for n in range(5):
        own, other = examples.sequences(n)
        ratios.append(log_p(policy, *own) - log_p(reference, *own))
        drifts.append(log_p(policy, *other) - log_p(reference, *other))
    kl = max(sum(drifts) / 5, 0.0)
    for n, ratio in enumerate(ratios):
        ids, labels = examples.sequences(n)[0]
        sign, weight = (1, 1.5) if ROWS[n]["label"] else (-1, 0.5)
        sigmoid = torch.sigmoid(torch.tensor(0.7 * sign * (ratio - kl))).item()
        ftx = -0.2 * log_p(policy, ids, labels) / int((labels != IGNORED).sum())
        losses.append(weight * (1 - sigmoid) + (ftx if ROWS[n]["label"] else 0))
    batch = stage.collate(examples, [(n,) for n in range(5)])
    with torch.no_grad():
        score = stage.loss(batch)
    assert kl > 0
    assert batch.weight == 5
    assert float(score.loss) == pytest.approx(sum(losses), rel=1e-3)
    assert float(score.sums["kl"]) == pytest.approx(5 * kl, rel=1e-3, abs=1e-3)
    wanted = [0.7 * ratio for n, ratio in enumerate(ratios) if ROWS[n]["label"]]
    assert float(score.sums["reward_chosen"]) == pytest.approx(sum(wanted), rel=1e-3, abs=1e-3)


def test_the_loss_begins_at_a_half_and_falls_while_the_margin_rises(workspace: Workspace) -> None:
    first, *_, last = steps(train(spec_of(workspace)))
    assert first["train_loss"] == pytest.approx(0.5, abs=1e-3)
    assert first["train_kl"] == pytest.approx(0, abs=1e-3)
    assert last["train_loss"] < first["train_loss"] - 0.02
    assert last["train_reward_margin"] > 0.1
    assert last["train_reward_margin"] == pytest.approx(
        last["train_reward_chosen"] - last["train_reward_rejected"], abs=1e-5
    )


def test_of_one_kind_alone_no_margin_is_told(workspace: Workspace) -> None:
    rows = [row for row in ROWS if row["label"]]
    spec = workspace.spec(rows, finetuning={"stage": "kto"}, max_steps=1)
    (step,) = steps(train(spec))
    assert "train_reward_chosen" in step
    assert not {"train_reward_rejected", "train_reward_margin"} & step.keys()


CHANGES: list[dict[str, Any]] = [
    {},
    {"pref_beta": 1.0},
    {"pref_ftx": 0.5},
    {"kto_chosen_weight": 3.0},
    {"kto_rejected_weight": 3.0},
]


def test_every_parameter_changes_the_result(workspace: Workspace) -> None:
    runs: list[dict[str, torch.Tensor]] = []
    for number, changed in enumerate(CHANGES):
        spec = spec_of(workspace, f"run-{number}", **changed)
        first, *_, last = steps(train(spec))
        assert last["train_reward_margin"] > first["train_reward_margin"], changed
        runs.append(final_weights(spec))
    for number, ours in enumerate(runs):
        for theirs in runs[:number]:
            assert any(not torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_parameter_of_another_stage_is_refused(workspace: Workspace) -> None:
    for changed, name in (
        ({"pref_loss": "ipo"}, "pref_loss"),
        ({"stage": "dpo", "kto_chosen_weight": 2.0}, "kto_chosen_weight"),
        ({"stage": "rm", "pref_beta": 0.3}, "pref_beta"),
    ):
        last = train(spec_of(workspace, f"{name}-run", **changed))[-1]
        assert isinstance(last, TrainFailed)
        assert (last.code, last.param) == ("invalid_hyperparameters", name)


def test_long_answers_are_cut_and_keep_their_prompts(workspace: Workspace) -> None:
    rows = [labelled("why " * 60, "because " * 40, True), labelled("how?", "so " * 50, False)]
    _, examples = stage_and_examples(workspace, rows, cutoff_len=64)
    for n in range(2):
        (own, own_labels), (other, other_labels) = examples.sequences(n)
        assert max(len(own), len(other)) <= 64
        kept = [int((labels == IGNORED).sum()) for labels in (own_labels, other_labels)]
        assert min(kept) > 0
        assert (own[: min(kept)] == other[: min(kept)]).all()


USER, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


def test_rows_are_read_by_either_name_of_the_label() -> None:
    for name in ("label", "kto_tag"):
        for value in (True, False, 1, 0, 1.0, 0.0):
            read = read_labelled(json.dumps({"messages": [USER, ANSWER], name: value, "id": 7}))
            assert read.is_desirable is bool(value)
            assert read.notes.ignored_columns == ["id"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": [USER, ANSWER]}, "the row has no 'label'"),
        ({"messages": [USER, ANSWER], "label": "yes"}, "'label' must be true or false"),
        ({"messages": [USER, ANSWER], "label": 2}, "'label' must be true or false"),
        ({"messages": [USER, ANSWER], "label": 0.5}, "'label' must be true or false"),
        ({"messages": [USER], "label": True}, "at least one assistant message"),
        ({"messages": [USER, {**ANSWER, "weight": 0}], "label": True}, "weight"),
        ({"input": {}, "preferred_output": []}, "for method.type 'dpo'"),
        ({"prompt": "a", "completion": "b", "label": True}, "write 'prompt' and 'completion'"),
        ({"messages": [USER, ANSWER], "label": True, "images": ["a"]}, "images are not supported"),
        ({}, "a row of the KTO method has 'messages'"),
    ],
)
def test_a_bad_row_is_told(row: dict[str, Any], said: str) -> None:
    with pytest.raises(ExampleError, match=said):
        read_labelled(json.dumps(row))
