"""Batches that fit into memory, and packed rows that are no longer than they need to be."""

from __future__ import annotations

from tests.trainer.conftest import CHATS, Workspace, chat, train
from workers.contract.training import Completed, Step, Warned
from workers.trainer.batches import single_rows
from workers.trainer.dataset import EncodedExamples
from workers.trainer.fitting import MAX_TOKENS_AT_ONCE, fitting
from workers.trainer.preparation import prepare_data
from workers.trainer.stages.sft import Supervised
from workers.trainer.stopping import StopRequest


def parts(*lengths: int) -> list[list[int]]:
    rows = single_rows(len(lengths))
    return [[lengths[index] for (index,) in part] for part in fitting(rows, lengths)]


def test_rows_of_ordinary_length_are_one_pass() -> None:
    assert parts(*[2048] * 16) == [[2048] * 16]
    assert parts(7) == [[7]]


def test_long_rows_take_several_passes_in_their_order() -> None:
    half = MAX_TOKENS_AT_ONCE // 2
    assert parts(half, half, half) == [[half, half], [half]]
    assert parts(10, 10, half + 1, 10) == [[10, 10], [half + 1], [10]]
    assert parts(2 * MAX_TOKENS_AT_ONCE, 5) == [[2 * MAX_TOKENS_AT_ONCE], [5]]


def lengths_of(examples: EncodedExamples, rows: list[tuple[int, ...]]) -> list[int]:
    return [sum(examples.lengths[index] for index in row) for row in rows]


def packed(workspace: Workspace, rows: list[object], **data: object) -> list[int]:
    """The lengths of packed rows."""
    spec = workspace.spec(rows, data={"packing": True, "cutoff_len": 512, **data})
    prepared, _ = prepare_data(spec, Supervised.open(spec), StopRequest())
    batches = prepared.plan.epoch(0)
    return lengths_of(prepared.training, [row for batch in batches for row in batch])


def test_rows_are_packed_to_the_packed_length_or_the_longest_example(workspace: Workspace) -> None:
    short = [chat("a", "b")] * 20
    assert max(packed(workspace, [*short])) > 300
    assert max(packed(workspace, [*short], packing_len=150)) <= 150
    long = chat("a", "b" * 200)
    longest = max(packed(workspace, [*short, long], packing_len=150))
    assert 200 < longest < 300


def test_a_batch_in_several_passes_is_one_step_with_the_same_result(workspace: Workspace) -> None:
    rows = [chat(f"{n}", "y" * 440) for n in range(80)]
    assert MAX_TOKENS_AT_ONCE < 80 * 440

    def losses(name: str, at_once: int, accumulated: int) -> list[float]:
        events = train(
            workspace.spec(
                rows,
                output_dir=name,
                per_device_train_batch_size=at_once,
                gradient_accumulation_steps=accumulated,
            )
        )
        assert isinstance(events[-1], Completed)
        return [event.metrics["train_loss"] for event in events if isinstance(event, Step)]

    split, accumulated = losses("split", 80, 1), losses("accumulated", 16, 5)
    assert len(split) == len(accumulated) == 2
    assert all(abs(a - b) < 1e-3 for a, b in zip(split, accumulated, strict=True))


def test_the_warning_names_the_limit_that_cut(workspace: Workspace) -> None:
    rows = [*CHATS, chat("x", "y" * 900)]
    cut = [e.message for e in train(workspace.spec(rows)) if isinstance(e, Warned)]
    assert cut == [
        "1 training example(s) were longer than 512 tokens (cutoff_len; the model's context is "
        "512) and were cut: line 21."
    ]
