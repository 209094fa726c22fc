"""Where keys and values lie: by counts, with the scheduler and the cache but no model. What a model
would compute is written by hand: a number made of a token and its place."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from workers.contract.parts import Sampling
from workers.engine.backend import Work
from workers.engine.hf.attention import plan_runs
from workers.engine.hf.kv import CALL_TOKENS, MAX_WASTE, SlotCache
from workers.engine.hf.prefixes import Rows
from workers.engine.hf.scheduler import Scheduler, Slice
from workers.engine.hf.sequence import Sequence
from workers.engine.hf.slabs import MIN_LENGTH, LayerShape, Row

LAYERS = (LayerShape(2, 2, 3), LayerShape(1, 4, 4))
TOKEN_BYTES = (2 * (2 + 3) + (4 + 4)) * 4


def make_cache(budget_tokens: int, max_length: int) -> SlotCache:
    return SlotCache(
        LAYERS,
        dtype=torch.float32,
        device=torch.device("cpu"),
        budget_bytes=budget_tokens * TOKEN_BYTES,
        max_length=max_length,
    )


@dataclass
class Engine:
    """Runs sequences as the engine does, and looks at every row after every step."""

    budget_tokens: int
    max_length: int
    max_rows: int = 64
    max_kept: int = 4
    num_preempted: int = 0
    most_running: int = 0
    ended: dict[int, list[int]] = field(default_factory=dict[int, list[int]])
    cached: dict[int, int] = field(default_factory=dict[int, int])

    def __post_init__(self) -> None:
        self.cache = make_cache(self.budget_tokens, self.max_length)
        self.rows = Rows(self.cache, self.max_kept)
        self.scheduler = Scheduler(self.rows, None, max_rows=self.max_rows, prefill_tokens=96)
        self.num_submitted = 0

    def submit(
        self, prompt: list[int], max_tokens: int, scope: str = "", *, is_spare: bool = False
    ) -> int:
        self.num_submitted += 1
        work = Work(
            self.num_submitted,
            prompt,
            Sampling(),
            max_tokens,
            frozenset(),
            cache_scope=scope,
            is_spare=is_spare,
        )
        sequence = Sequence(work, arrival=self.num_submitted)
        self.scheduler.waiting.add(sequence)
        return self.num_submitted

    def step(self) -> None:
        before = {id(sequence) for sequence in self.scheduler.active}
        for sequence in self.scheduler.admit():
            self._append(sequence)
        active = {id(sequence) for sequence in self.scheduler.active}
        self.num_preempted += len(before - active)
        self._look()
        step = self.scheduler.plan()
        for part in (*step.decode, *step.chunks):
            self._compute(part)
        for part in (*step.decode, *step.chunks):
            if part.completes:
                if not part.sequence.num_output:
                    part.sequence.prompt_logits_V = torch.zeros(1)
                self._append(part.sequence)
        self.most_running = max(self.most_running, len(self.scheduler.active))

    def run(self) -> None:
        limit = 200_000
        while self.scheduler.active or self.scheduler.waiting:
            self.step()
            limit -= 1
            assert limit, "it gets nowhere"

    def _append(self, sequence: Sequence) -> None:
        sequence.append(_next_token(sequence))
        if sequence.num_output == sequence.work.max_tokens:
            assert sequence.work.key not in self.ended
            self.ended[sequence.work.key] = sequence.tokens[sequence.num_prompt :].tolist()
            self.cached[sequence.work.key] = sequence.num_cached
            self.scheduler.finish(sequence)

    def _compute(self, part: Slice) -> None:
        row = part.sequence.row
        for t_KLD in _tensors(row):
            for at in range(part.start, part.end):
                t_KLD[:, at] = _content(part.sequence.tokens[at], at)
        row.num_computed = part.end

    def _look(self) -> None:
        """The budget, the waste, and what each row holds."""
        slabs = {id(row.slab): row.slab for row in self._all_rows()}
        num_bytes = sum(
            t.numel() * t.element_size()
            for slab in slabs.values()
            if slab is not None
            for t in (*slab.keys, *slab.values)
        )
        assert num_bytes == self.cache.num_tokens * TOKEN_BYTES
        assert self.cache.num_tokens <= self.budget_tokens
        active = self.scheduler.active
        kept = [entry.row.num_computed for entry in self.rows._kept.values()]  # pyright: ignore
        held = [max(MIN_LENGTH, n) for n in (*(len(s.tokens) for s in active), *kept)]
        assert self.cache.num_tokens <= MAX_WASTE * sum(held)
        for sequence in active:
            assert sequence.row.length >= len(sequence.tokens)
            _check_content(sequence.row, sequence.tokens.tolist())
        for entry in self.rows._kept.values():  # pyright: ignore
            _check_content(entry.row, entry.keys.tolist())

    def _all_rows(self) -> list[Row]:
        kept = [entry.row for entry in self.rows._kept.values()]  # pyright: ignore
        return [*(sequence.row for sequence in self.scheduler.active), *kept]


def _next_token(sequence: Sequence) -> int:
    return (sum(sequence.tokens) * 31 + len(sequence.tokens)) % 97


def _content(token: int, at: int) -> float:
    return float(token * 1000 + at % 1000 + 1)


def _tensors(row: Row) -> list[Tensor]:
    assert row.slab is not None
    return [t[row.slot] for t in (*row.slab.keys, *row.slab.values)]


def _check_content(row: Row, tokens: list[int]) -> None:
    expected = torch.tensor([_content(tokens[at], at) for at in range(row.num_computed)])
    for t_KLD in _tensors(row):
        found = t_KLD[:, : row.num_computed]
        assert bool((found == expected[None, :, None]).all())


class CountCopies(TorchDispatchMode):
    """Elements written by `copy_`."""

    num_elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.copy_.default:
            self.num_elements += args[0].numel()
        return func(*args, **(kwargs or {}))


def _bytes_copied(work: Any) -> int:
    with CountCopies() as count:
        work()
    return count.num_elements * 4


def _placed(cache: SlotCache, *lengths: int) -> list[Row]:
    rows = [Row() for _ in lengths]
    assert cache.reserve(zip(rows, lengths, strict=True))
    for row, length in zip(rows, lengths, strict=True):
        row.num_computed = length
    return rows


def test_one_long_conversation_and_sixty_short_ones_run_together() -> None:
    """In four times what the long one takes; rows of one length would want sixty-one times."""
    engine = Engine(budget_tokens=4 * 4096, max_length=4096)
    prompts = random.Random(5)
    engine.submit([prompts.randrange(97) for _ in range(3800)], 200)
    for _ in range(60):
        engine.submit([prompts.randrange(97) for _ in range(prompts.randrange(20, 70))], 50)
    while len(engine.ended) < 60:
        engine.step()
    assert engine.most_running == 61
    assert engine.num_preempted == 0
    assert 1 not in engine.ended
    engine.run()
    assert len(engine.ended[1]) == 200


def test_growth_copies_the_growing_row_only() -> None:
    cache = make_cache(100_000, 4096)
    rows = _placed(cache, *[64] * 8)
    assert len({id(row.slab) for row in rows}) == 1
    copied = _bytes_copied(lambda: cache.reserve([(rows[3], 65)]))
    assert copied == 64 * TOKEN_BYTES
    assert rows[3].length == 128
    assert {row.length for row in rows} == {64, 128}


def test_rows_that_grow_together_stay_together() -> None:
    cache = make_cache(100_000, 4096)
    rows = _placed(cache, *[64] * 8)
    copied = _bytes_copied(lambda: cache.reserve([(row, 65) for row in rows]))
    assert copied == 8 * 64 * TOKEN_BYTES
    assert len({id(row.slab) for row in rows}) == 1
    assert cache.num_tokens == 8 * 128


def test_a_row_that_leaves_makes_room_for_the_next_without_a_copy() -> None:
    cache = make_cache(100_000, 4096)
    rows = _placed(cache, *[100] * 4)

    def change() -> None:
        cache.release(rows[1])
        _placed(cache, 110)

    assert _bytes_copied(change) == 0
    assert cache.num_tokens == 4 * 128


def test_rows_of_one_length_are_brought_together_where_it_pays() -> None:
    """Rows that came one by one; short ones at once, long ones when the calls that they cost more
    have cost as much as the copying will."""
    short, long = make_cache(100_000, 4096), make_cache(100_000, 4096)
    for _ in range(6):
        _placed(short, 60)
        _placed(long, 3000)
    short.tidy()
    assert len(_runs(short)) == 1
    num_steps = 0
    while len(_runs(long)) > 1:
        long.tidy()
        num_steps += 1
        assert num_steps < 100
    assert num_steps == -(-3 * 6 * 3000 // (5 * CALL_TOKENS))


def _runs(cache: SlotCache) -> list[Any]:
    rows = [(row, row.num_computed) for row in cache.running]
    return plan_runs(rows, torch.zeros(len(rows), dtype=torch.long))


def test_memory_of_rows_that_leave_is_given_back() -> None:
    cache = make_cache(100_000, 4096)
    rows = _placed(cache, *[100] * 16, 2000)
    for row in rows[:12]:
        cache.release(row)
    cache.tidy()
    assert cache.num_tokens == 16 * 128 + 2048  # not much beside the long one
    cache.release(rows[16])
    cache.tidy()
    assert cache.num_tokens == 4 * 128
    for row in rows[12:16]:
        cache.release(row)
    assert cache.num_tokens == 0


def test_a_row_alone_may_grow_to_all_that_there_is() -> None:
    cache = make_cache(1000, 1000)
    (row,) = _placed(cache, 10)
    for length in range(11, 1001):
        assert cache.reserve([(row, length)])
        row.num_computed = length
    assert cache.num_tokens == 1000
    assert not cache.reserve([(Row(), 1)])


def test_where_a_row_finds_no_room_the_kept_go_first_and_then_the_youngest() -> None:
    engine = Engine(budget_tokens=640, max_length=512, max_kept=4)
    for first in range(3):
        engine.submit([first] * 40, 20)
    engine.run()
    assert engine.rows.num_kept == 3
    old, young = engine.submit([7] * 150, 200), engine.submit([8] * 150, 200)
    engine.run()
    assert engine.num_preempted > 0
    assert list(engine.ended)[-2:] == [old, young]


def test_a_prompt_dropped_half_way_keeps_no_more_than_it_has_computed() -> None:
    engine = Engine(budget_tokens=4096, max_length=2048)
    engine.submit([5] * 1500, 10)
    engine.step()
    engine.scheduler.drop(engine.scheduler.active[0])
    assert engine.rows.num_kept == 1
    assert engine.cache.num_tokens == 128


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_arrivals_keep_within_budget_and_waste_and_lose_nothing(data: st.DataObject) -> None:
    """Whatever moves, is preempted or shared: each sequence's output is what it is alone."""
    max_length = data.draw(st.sampled_from([100, 256, 700]))
    budget = data.draw(st.integers(max_length, 6 * max_length))
    engine = Engine(budget, max_length, data.draw(st.integers(1, 12)), data.draw(st.integers(0, 5)))
    works: dict[int, tuple[list[int], int]] = {}
    beginnings = [[n] * max_length for n in range(3)]
    for _ in range(data.draw(st.integers(1, 25))):
        size = data.draw(st.integers(1, max_length - 1))
        shared = data.draw(st.integers(0, size))
        prompt = beginnings[data.draw(st.integers(0, 2))][:shared]
        prompt = prompt + [data.draw(st.integers(0, 96))] * (size - shared)
        max_tokens = data.draw(st.integers(1, max_length - size))
        scope = data.draw(st.sampled_from(["", "a"]))
        works[engine.submit(prompt, max_tokens, scope)] = prompt, max_tokens
        for _ in range(data.draw(st.integers(0, 30))):
            engine.step()
        active = engine.scheduler.active
        if active and data.draw(st.integers(0, 5)) == 0:
            dropped = active[data.draw(st.integers(0, len(active) - 1))]
            engine.scheduler.drop(dropped)
            del works[dropped.work.key]
    engine.run()
    assert engine.ended.keys() == works.keys()
    for key, (prompt, max_tokens) in works.items():
        alone = Engine(max_length, max_length)
        alone.submit(prompt, max_tokens)
        alone.run()
        assert engine.ended[key] == alone.ended[1]
    engine.rows.forget_kept()
    assert engine.cache.num_tokens == 0
