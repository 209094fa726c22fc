"""Whole runs: stages, what they report and what they leave behind."""

from __future__ import annotations

from tests.trainer.conftest import Workspace, train
from workers.contract.training import Completed, Step

TEXTS = [{"text": "the quick brown fox jumps over the lazy dog " * (1 + n % 3)} for n in range(24)]


def test_pretraining_from_scratch_lowers_the_loss(workspace: Workspace) -> None:
    spec = workspace.spec(
        TEXTS,
        model={"train_from_scratch": True},
        data={"packing": True, "cutoff_len": 128},
        finetuning={"stage": "pt", "finetuning_type": "full"},
        num_train_epochs=4,
    )
    events = train(spec)
    steps = [event for event in events if isinstance(event, Step)]
    assert isinstance(events[-1], Completed)
    assert steps[0].train_loss > 5
    assert steps[-1].train_loss < 0.7 * steps[0].train_loss
