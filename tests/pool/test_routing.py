"""The routing policy alone: who is chosen, and what it does to caches and to load."""

from __future__ import annotations

import random
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from server.engines.routing import BOUND_SHARE, BOUND_SLACK, Reason, choose


@dataclass
class Fake:
    """A replica with places for adapters, the one not used for longest leaving first."""

    engine_id: str
    load: int = 0
    num_places: int = 2
    adapters: OrderedDict[str, None] = field(default_factory=OrderedDict)
    num_loads: int = 0

    def holds(self, adapter: str) -> bool:
        return adapter in self.adapters

    @property
    def has_free_place(self) -> bool:
        return len(self.adapters) < self.num_places

    def use(self, adapter: str) -> None:
        if adapter not in self.adapters:
            self.num_loads += 1
            if not self.has_free_place:
                self.adapters.popitem(last=False)
        self.adapters[adapter] = None
        self.adapters.move_to_end(adapter)


def replicas(count: int, **settings: int) -> list[Fake]:
    return [Fake(f"engine-{number}", **settings) for number in range(count)]


def test_a_single_replica_is_no_choice() -> None:
    assert choose(replicas(1), "adapter", "conversation") == (0, Reason.ONLY)


def test_without_affinity_the_idlest_is_chosen() -> None:
    fakes = replicas(3)
    fakes[0].load, fakes[1].load, fakes[2].load = 4, 2, 3
    assert choose(fakes) == (1, Reason.LOAD)


def test_a_conversation_keeps_its_replica_and_conversations_are_spread() -> None:
    fakes = replicas(4)
    chosen = {key: choose(fakes, None, key) for key in map(str, range(400))}
    assert all(choose(fakes, None, key) == choice for key, choice in chosen.items())
    shares = Counter(at for at, _ in chosen.values())
    assert all(60 <= shares[at] <= 140 for at in range(4))


def test_a_replica_that_goes_moves_only_its_own_conversations() -> None:
    fakes = replicas(4)
    for key in map(str, range(200)):
        before = fakes[choose(fakes, None, key).at]
        after = fakes[:2] + fakes[3:]
        if before is not fakes[2]:
            assert after[choose(after, None, key).at] is before


@pytest.mark.parametrize("count", [2, 3, 8])
@pytest.mark.parametrize("adapter", [None, "adapter"])
def test_no_affinity_overloads_a_replica(count: int, adapter: str | None) -> None:
    """Everything wants to go to one place, and nothing ever ends."""
    fakes = replicas(count)
    for total in range(300):
        at, _ = choose(fakes, adapter, "the same conversation")
        fakes[at].load += 1
        if adapter is not None:
            fakes[at].use(adapter)
        assert fakes[at].load <= BOUND_SHARE * (total + 1) / count + BOUND_SLACK + 1


def test_a_conversation_over_the_bound_spills_to_the_same_second_place() -> None:
    fakes = replicas(4)
    own = choose(fakes, None, "key").at
    fakes[own].load = 50
    second = choose(fakes, None, "key")
    assert second.reason is Reason.SPILL
    assert second.at != own
    assert choose(fakes, None, "key") == second


def test_an_adapter_goes_where_it_is_resident() -> None:
    fakes = replicas(3)
    for at in range(3):
        fakes[at].adapters["held"] = None
        for conversation in (None, "a", "b"):
            assert choose(fakes, "held", conversation) == (at, Reason.ADAPTER)
        fakes[at].adapters.clear()


def test_a_new_adapter_goes_where_there_is_a_free_place() -> None:
    fakes = replicas(3)
    for fake in (fakes[0], fakes[2]):
        fake.use("x")
        fake.use("y")
    assert choose(fakes, "new") == (1, Reason.ADAPTER_HOME)


def test_an_adapter_whose_replica_is_full_goes_elsewhere() -> None:
    fakes = replicas(3)
    fakes[1].use("held")
    fakes[1].load = 30
    at, reason = choose(fakes, "held")
    assert at != 1
    assert reason is Reason.SPILL


def _loads(pick: Callable[[list[Fake], str], int], num_adapters: int) -> int:
    fakes = replicas(4, num_places=4)
    traffic = random.Random(5)
    for _ in range(4000):
        adapter = f"adapter-{traffic.randrange(num_adapters)}"
        fakes[pick(fakes, adapter)].use(adapter)
    return sum(fake.num_loads for fake in fakes)


def test_adapters_that_fit_the_replicas_together_are_loaded_once() -> None:
    """16 adapters, 4 replicas with 4 places: any replica alone would load all the time."""
    turn = iter(range(4000))
    assert _loads(lambda fakes, _: next(turn) % len(fakes), 16) > 2500
    assert _loads(lambda fakes, adapter: choose(fakes, adapter).at, 16) == 16


def test_adapters_that_do_not_fit_are_loaded_less() -> None:
    turn = iter(range(4000))
    by_turns = _loads(lambda fakes, _: next(turn) % len(fakes), 24)
    assert _loads(lambda fakes, adapter: choose(fakes, adapter).at, 24) < 0.5 * by_turns
