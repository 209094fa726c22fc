"""Every stage with every kind of fine-tuning: it learns, and a run that is killed goes on."""

from __future__ import annotations

from typing import Any

import pytest

from tests.trainer import test_kto, test_pairs
from tests.trainer.conftest import CHATS, Workspace, start, train
from tests.trainer.test_pairs import steps
from tests.trainer.test_resume import DEADLINE_S, assert_same_run, has_step, wait_for
from workers.contract.parameters import FinetuningType, Stage
from workers.contract.training import TrainSpec

TEXTS = [{"text": f"Line {n} of a song that goes on and on."} for n in range(12)]
ROWS: dict[Stage, list[dict[str, Any]]] = {
    Stage.PT: TEXTS,
    Stage.SFT: CHATS[:12],
    Stage.RM: test_pairs.ROWS,
    Stage.DPO: test_pairs.ROWS,
    Stage.KTO: test_kto.ROWS,
}


def spec_of(
    workspace: Workspace, stage: Stage, kind: FinetuningType, output_dir: str = "run", **more: Any
) -> TrainSpec:
    is_adapter = kind in (FinetuningType.LORA, FinetuningType.OFT)
    settings: dict[str, Any] = {
        "num_train_epochs": 4,
        "learning_rate": 5e-3 if is_adapter else 5e-4,
        "lr_scheduler_type": "constant",
        **more,
    }
    return workspace.spec(
        ROWS[stage],
        output_dir=output_dir,
        data={"validation_file": workspace.write("held_out.jsonl", ROWS[stage][:5])},
        finetuning={
            "stage": stage,
            "finetuning_type": kind,
            **({"lora_dropout": 0.1} if kind is FinetuningType.LORA else {}),
        },
        **settings,
    )


@pytest.mark.parametrize("kind", FinetuningType)
@pytest.mark.parametrize("stage", ROWS)
def test_every_stage_learns(workspace: Workspace, stage: Stage, kind: FinetuningType) -> None:
    told = steps(train(spec_of(workspace, stage, kind)))
    assert len(told) == 12
    first, last = (sum(each["train_loss"] for each in part) for part in (told[:3], told[-3:]))
    assert last < first * 0.98


@pytest.mark.parametrize(
    ("stage", "kind"),
    [
        (Stage.KTO, FinetuningType.LORA),
        (Stage.RM, FinetuningType.FULL),
        (Stage.DPO, FinetuningType.LORA),
        (Stage.PT, FinetuningType.FULL),
    ],
)
def test_a_run_that_is_killed_goes_on_with_the_same_curve(
    workspace: Workspace, stage: Stage, kind: FinetuningType
) -> None:
    def long(output_dir: str) -> TrainSpec:
        return spec_of(workspace, stage, kind, output_dir, save_steps=4, save_total_limit=10)

    train(long("whole"))
    killed = long("killed")
    process = start(killed)
    wait_for(process, has_step(killed, 6))
    process.kill()
    process.wait()
    assert start(killed).wait(DEADLINE_S) == 0
    assert_same_run(killed, long("whole"))
