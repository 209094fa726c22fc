"""What a family can do, as its row of the page; raises where something is wrong."""

from __future__ import annotations

import traceback
from pathlib import Path

from tests.architectures.families import FAMILIES, NOT_BUILT
from tests.architectures.results import Row, read_page
from tests.architectures.subject import Subject
from workers.contract.hello import Capability
from workers.contract.parts import AdapterRef
from workers.contract.training import TrainFailed
from workers.engine.backend import Description, RefusedError


def families_from(first: str, last: str) -> list[str]:
    """Those whose names begin with these letters or one between."""
    return [family for family in FAMILIES if first <= family[0] <= last]


def check_row(family: str, folder: Path) -> None:
    """What the page says of it, where it has a row."""
    row = examine(family, folder)
    assert row == read_page().get(family, row)


def examine(family: str, folder: Path) -> Row:
    if family in NOT_BUILT:
        return Row(family, base=f"refused: {NOT_BUILT[family]}")
    subject = Subject(family, folder)
    job, adapters = _train(subject)
    packing = _pack(subject, job)
    everybody = [*subject.adapters, *adapters]
    try:
        description, answers = subject.answers(everybody)
    except RefusedError as refusal:
        if "'trained'" not in refusal.message:
            raise
        job, everybody = f"refused: {refusal.message}", subject.adapters
        description, answers = subject.answers(everybody)
    if Capability.LORA not in description.capabilities:
        assert answers == subject.expected()
        adapters_cell = "refused: none of its layers is of a kind that takes adapters"
        return Row(family, _mode(description), adapters_cell, job, packing)
    expected = subject.expected(everybody)
    names = ["the base", *(adapter.name for adapter in everybody)]
    for name, found, wanted in zip(names, answers, expected, strict=True):
        assert found == wanted, name
    assert expected[0] != expected[1] != expected[2]
    return Row(family, _mode(description), "yes", job, packing)


def _mode(description: Description) -> str:
    reason = description.compatibility
    return "batched" if reason is None else f"compatibility: {reason}"


def _train(subject: Subject) -> tuple[str, list[AdapterRef]]:
    done = subject.train()
    if isinstance(done, TrainFailed):
        assert done.code != "internal_error", done.message
        return f"refused: {done.message}", []
    return "yes", [AdapterRef("trained", 9, done.path)]


def _pack(subject: Subject, job: str) -> str:
    if job != "yes":
        return job
    done = subject.train(packing=True)
    if not isinstance(done, TrainFailed):
        return "yes"
    assert (done.code, done.param) == ("invalid_hyperparameters", "packing"), done.message
    return "refused: " + done.message.partition("): ")[2].partition(".")[0]


def examine_or_tell(family: str, folder: Path) -> Row:
    """For a survey by hand."""
    try:
        return examine(family, folder)
    except Exception:
        return Row(family, base="**fails**: " + traceback.format_exc().splitlines()[-1])
