"""Whether every stage trains on a device as it does on the CPU."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

from msgspec import structs

from tests.gpu.findings import Finding
from tests.trainer.conftest import Workspace, build_model, build_tokenizer, train
from tests.trainer.test_stages import ROWS, spec_of
from workers.contract.parameters import FinetuningType, Stage
from workers.contract.training import Completed, Step, TrainSpec

STEPS = 10
MAX_FIRST_LOSS_ERROR = 1e-3
"""Float32 on both sides; kernels add up in another order."""


def stages(device: str, folder: Path) -> list[Finding]:
    """Ten steps of every stage that learns from rows, with every kind of fine-tuning: the first
    loss is the CPU's, and the loss falls."""
    workspaces = {where: _workspace(folder / where.replace(":", "")) for where in ("cpu", device)}
    return [
        _stage(workspaces, device, stage, kind)
        for stage, kind in itertools.product(ROWS, FinetuningType)
    ]


def bf16(device: str, folder: Path) -> list[Finding]:
    """Ten steps in bfloat16, as mixed precision and as pure."""
    workspace = _workspace(folder)
    specs = {
        "bf16": _spec(workspace, device, "mixed", training={"bf16": True}),
        "pure_bf16": _spec(workspace, device, "pure", finetuning={"pure_bf16": True}),
    }
    return [_falls(f"sft lora {name}", losses(spec)) for name, spec in specs.items()]


def losses(spec: TrainSpec) -> list[float]:
    """Of each step. Raises RuntimeError if the run fails."""
    events = train(spec)
    if not isinstance(events[-1], Completed):
        raise RuntimeError(f"the run ended with {events[-1]}")
    return [event.metrics["train_loss"] for event in events if isinstance(event, Step)]


def _stage(
    workspaces: dict[str, Workspace], device: str, stage: Stage, kind: FinetuningType
) -> Finding:
    told = {
        where: losses(_spec(workspace, where, f"{stage}-{kind}", stage=stage, kind=kind))
        for where, workspace in workspaces.items()
    }
    falls = _falls(f"{stage} {kind}", told[device])
    error = abs(told[device][0] - told["cpu"][0])
    is_same = error <= MAX_FIRST_LOSS_ERROR
    return Finding(
        falls.what,
        f"{falls.measured}; first loss off by {error:.1e}",
        is_same and bool(falls.passed),
    )


def _falls(what: str, told: list[float]) -> Finding:
    first, last = sum(told[:3]) / 3, sum(told[-3:]) / 3
    is_whole = len(told) == STEPS and all(map(math.isfinite, told))
    return Finding(what, f"loss {first:.3f} to {last:.3f}", is_whole and last < first)


def _workspace(folder: Path) -> Workspace:
    base = folder / "base"
    tokenizer = build_tokenizer()
    build_model(len(tokenizer)).save_pretrained(base)
    tokenizer.save_pretrained(base)
    return Workspace(folder, base)


def _spec(
    workspace: Workspace,
    device: str,
    name: str,
    *,
    stage: Stage = Stage.SFT,
    kind: FinetuningType = FinetuningType.LORA,
    model: dict[str, Any] | None = None,
    finetuning: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
) -> TrainSpec:
    """Without dropout, whose draws differ between devices."""
    spec = spec_of(workspace, stage, kind, name, max_steps=STEPS, **(training or {}))
    return structs.replace(
        spec,
        model=structs.replace(spec.model, device=device, **(model or {})),
        finetuning=structs.replace(spec.finetuning, lora_dropout=0.0, **(finetuning or {})),
    )
