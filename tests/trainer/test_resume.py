"""A run that is stopped, killed or restarted ends as one that is not."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.forked import PARENT_FD, ForkedWorker
from tests.trainer.conftest import Workspace, events_of, start, train
from workers.contract.training import (
    CheckpointSaved,
    Completed,
    Evaluated,
    Started,
    Step,
    Stopped,
    TrainEvent,
    TrainSpec,
)
from workers.trainer.run import run
from workers.trainer.stopping import StopRequest

ROWS = [
    {"prompt": f"count to {n}: ", "completion": " ".join(map(str, range(n + 1)))} for n in range(16)
]
DEADLINE_S = 120


def spec_of(workspace: Workspace, output_dir: str, **overrides: Any) -> TrainSpec:
    validation_file = workspace.write("held_out.jsonl", ROWS[:6])
    return workspace.spec(
        ROWS,
        output_dir=output_dir,
        data={"validation_file": validation_file},
        finetuning={"lora_dropout": 0.1, **overrides},
        num_train_epochs=6,
        save_steps=5,
        eval_steps=4,
        save_total_limit=10,
        lr_scheduler_type="cosine",
    )


def reported(events: list[TrainEvent]) -> list[object]:
    """Steps, evaluations and checkpoints without what time and place change."""
    rows: list[object] = []
    for event in events:
        match event:
            case Step():
                rows += [
                    (event.step, event.grad_norm, event.metrics),
                    (event.learning_rate, event.trained_tokens),
                ]
            case Evaluated():
                rows.append((event.step, event.metrics))
            case CheckpointSaved():
                rows.append((event.step, event.metrics))
            case _:
                pass
    return rows


def final_weights(spec: TrainSpec) -> dict[str, torch.Tensor]:
    files = sorted((Path(spec.output_dir) / "model").glob("*.safetensors"))
    assert files
    return {name: weight for file in files for name, weight in load_file(file).items()}


def assert_same_run(spec: TrainSpec, uninterrupted: TrainSpec) -> None:
    events = events_of(spec)
    assert isinstance(events[-1], Completed)
    assert reported(events) == reported(events_of(uninterrupted))
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    ours, theirs = final_weights(spec), final_weights(uninterrupted)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert checkpoint_names(spec) == checkpoint_names(uninterrupted)


def checkpoint_names(spec: TrainSpec) -> set[str]:
    return {path.name for path in (Path(spec.output_dir) / "checkpoints").iterdir()}


def wait_for(process: ForkedWorker, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        has_ended = process.poll() is not None
        if condition():
            return
        assert not has_ended
        assert time.monotonic() < deadline
        time.sleep(0.002)


def has_step(spec: TrainSpec, step: int) -> Callable[[], bool]:
    path = Path(spec.output_dir) / "events.ndjson"
    needle = f'"type":"step","step":{step},'.encode()
    return lambda: path.exists() and needle in path.read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, base: Path) -> TrainSpec:
    spec = spec_of(Workspace(tmp_path_factory.mktemp("uninterrupted"), base), "whole")
    process = start(spec)
    assert process.wait(DEADLINE_S) == 0
    return spec


def test_sigterm_checkpoints_within_a_step_and_the_resumed_run_is_the_same(
    workspace: Workspace, uninterrupted: TrainSpec
) -> None:
    spec = spec_of(workspace, "stopped")
    for step in (3, 11):
        process = start(spec)
        wait_for(process, has_step(spec, step))
        process.send_signal(signal.SIGTERM)
        seen = max(event.step for event in events_of(spec) if isinstance(event, Step))
        assert process.wait(DEADLINE_S) == 0
        last = events_of(spec)[-1]
        assert isinstance(last, Stopped)
        assert last.step <= seen + 2
    assert start(spec).wait(DEADLINE_S) == 0
    assert_same_run(spec, uninterrupted)
    resumed = [event for event in events_of(spec) if isinstance(event, Started)]
    assert [event.resumed_from_step > 0 for event in resumed] == [False, True, True]


def test_the_end_of_the_parent_is_heeded_like_sigterm(workspace: Workspace) -> None:
    spec = spec_of(workspace, "orphan")
    read_end, write_end = os.pipe()
    process = start(spec, "--parent-fd", str(PARENT_FD), parent_fd=read_end)
    os.close(read_end)
    wait_for(process, has_step(spec, 2))
    os.close(write_end)
    assert process.wait(DEADLINE_S) == 0
    assert isinstance(events_of(spec)[-1], Stopped)


def test_kill_at_any_moment_changes_nothing_of_the_run(
    workspace: Workspace, uninterrupted: TrainSpec
) -> None:
    spec = spec_of(workspace, "killed")
    for step in (2, 12):
        process = start(spec)
        wait_for(process, has_step(spec, step))
        process.kill()
        process.wait()
    assert start(spec).wait(DEADLINE_S) == 0
    assert_same_run(spec, uninterrupted)


@pytest.mark.parametrize("place", ["checkpoints", "state"])
def test_kill_in_the_middle_of_a_checkpoint_write_leaves_no_half_checkpoint(
    workspace: Workspace, uninterrupted: TrainSpec, place: str
) -> None:
    spec = spec_of(workspace, "torn")
    folder = Path(spec.output_dir) / place
    process = start(spec)
    wait_for(process, lambda: any(folder.glob(".*.partial")))
    process.kill()
    process.wait()
    for partial in folder.glob(".*.partial"):
        torn = partial / "adapter_model.safetensors" if partial.is_dir() else partial
        torn.write_bytes(b"torn")
    assert start(spec).wait(DEADLINE_S) == 0
    assert not list(folder.glob(".*"))
    assert_same_run(spec, uninterrupted)


def test_an_unfinished_line_of_the_event_file_is_cut_off(
    workspace: Workspace, uninterrupted: TrainSpec
) -> None:
    spec = spec_of(workspace, "cut")
    process = start(spec)
    wait_for(process, has_step(spec, 6))
    process.kill()
    process.wait()
    with (Path(spec.output_dir) / "events.ndjson").open("ab") as file:
        file.write(b'{"type":"step","step":7,"tot')
    assert start(spec).wait(DEADLINE_S) == 0
    assert_same_run(spec, uninterrupted)


def test_a_completed_run_is_not_trained_again(workspace: Workspace) -> None:
    spec = spec_of(workspace, "done")
    before = train(spec)
    assert train(spec) == before


def test_a_run_lost_between_its_model_and_its_last_event_completes(workspace: Workspace) -> None:
    spec = spec_of(workspace, "last")
    before = train(spec)
    path = Path(spec.output_dir) / "events.ndjson"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    after = train(spec)
    assert isinstance(after[-1], Completed)
    assert reported(after) == reported(before)


def test_a_full_run_resumes_with_the_same_weights(workspace: Workspace) -> None:
    whole = spec_of(workspace, "whole", finetuning_type="full", lora_dropout=0)
    assert start(whole).wait(DEADLINE_S) == 0
    spec = spec_of(workspace, "stopped", finetuning_type="full", lora_dropout=0)
    process = start(spec)
    wait_for(process, has_step(spec, 6))
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE_S) == 0
    assert start(spec).wait(DEADLINE_S) == 0
    assert_same_run(spec, whole)


class StopsAt(StopRequest):
    """Asks to leave at the step that it is asked for the `count`th time whether to."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._left = count

    @property
    def requested(self) -> bool:
        self._left -= 1
        return self._left < 0


def test_further_parameters_resume_as_well(workspace: Workspace) -> None:
    def spec(output_dir: str) -> TrainSpec:
        return workspace.spec(
            ROWS,
            output_dir=output_dir,
            data={"val_size": 4, "max_samples": 14},
            finetuning={
                "lora_dropout": 0.1,
                "use_dora": True,
                "loraplus_lr_ratio": 4.0,
                "use_asft_loss": True,
            },
            num_train_epochs=2.5,
            gradient_accumulation_steps=2,
            warmup_steps=2,
            adam_beta2=0.95,
            bf16=True,
            gradient_checkpointing=True,
            neftune_noise_alpha=5.0,
            logging_steps=2,
            eval_strategy="epoch",
            save_strategy="steps",
            save_steps=2,
            save_total_limit=10,
        )

    train(spec("whole"))
    for steps in (1, 2):
        assert run(spec("stopped"), StopsAt(steps))
        assert isinstance(events_of(spec("stopped"))[-1], Stopped)
    train(spec("stopped"))
    assert_same_run(spec("stopped"), spec("whole"))


def test_a_state_of_a_trainer_that_knew_fewer_arguments_is_taken_up(workspace: Workspace) -> None:
    spec = spec_of(workspace, "older")
    assert run(spec, StopsAt(3))
    state = next((Path(spec.output_dir) / "state").glob("step-*.pt"))
    content = torch.load(state)
    for name in ("use_dora", "adam_beta1", "bf16", "val_size"):
        del content["fingerprint"][name]
    torch.save(content, state)
    assert isinstance(train(spec)[-1], Completed)


def test_other_arguments_than_the_saved_ones_are_refused(workspace: Workspace) -> None:
    spec = spec_of(workspace, "changed")
    process = start(spec)
    wait_for(process, has_step(spec, 6))
    process.send_signal(signal.SIGTERM)
    process.wait()
    events = train(spec_of(workspace, "changed", lora_rank=4))
    assert "lora_rank" in getattr(events[-1], "message", "")
