"""Spare sequences of the HF engine: they have what others leave, and lose nothing by it."""

from __future__ import annotations

import random

import pytest

from tests.engine.test_kv_cache import Engine


def _prompt(seed: int, length: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(97) for _ in range(length)]


def _alone(prompt: list[int], max_tokens: int) -> list[int]:
    engine = Engine(4096, 512)
    key = engine.submit(prompt, max_tokens)
    engine.run()
    return engine.ended[key]


@pytest.mark.parametrize(
    ("budget_tokens", "max_rows"), [(8192, 4), (512, 64)], ids=["by rows", "by memory"]
)
def test_another_is_admitted_in_the_next_step_though_spare_ones_have_everything(
    budget_tokens: int, max_rows: int
) -> None:
    engine = Engine(budget_tokens, 512, max_rows=max_rows)
    spare = {engine.submit(p, 40, is_spare=True): p for p in (_prompt(n, 48) for n in range(12))}
    for _ in range(10):
        engine.step()
    assert all(sequence.work.is_spare for sequence in engine.scheduler.active)
    waiting = [_prompt(100 + n, 48) for n in range(2)]
    others = {engine.submit(prompt, 6): prompt for prompt in waiting}
    engine.step()
    running = {sequence.work.key for sequence in engine.scheduler.active}
    assert others.keys() <= running
    num_steps = 1
    while not others.keys() <= engine.ended.keys():
        engine.step()
        num_steps += 1
    assert num_steps <= 6 + 1, "as many as without the spare ones: a prompt, then a token each"
    assert engine.num_preempted >= 1
    engine.run()
    for key, prompt in (spare | others).items():
        assert engine.ended[key] == _alone(prompt, 40 if key in spare else 6)


def test_spare_ones_use_every_row_and_as_few_steps_as_others_would() -> None:
    steps: list[int] = []
    for is_spare in (False, True):
        engine = Engine(16384, 512, max_rows=8)
        for n in range(40):
            engine.submit(_prompt(n, 12), 20, is_spare=is_spare)
        num_steps = 0
        while engine.scheduler.active or engine.scheduler.waiting:
            engine.step()
            num_steps += 1
        assert engine.most_running == 8
        steps.append(num_steps)
    assert steps[0] == steps[1]


def test_spare_ones_do_not_pass_one_that_waits_for_memory() -> None:
    engine = Engine(512, 512)
    first = engine.submit(_prompt(1, 300), 60)
    engine.step()
    second = engine.submit(_prompt(2, 200), 20)
    spare = engine.submit(_prompt(3, 20), 20, is_spare=True)
    engine.run()
    assert list(engine.ended) == [first, second, spare]
