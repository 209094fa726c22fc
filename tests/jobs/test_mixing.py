"""Data sets in turn, as Hugging Face's `interleave_datasets` has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from server.datasets.mixing import Mixing, MixStrategy, mix

UNDER, OVER = MixStrategy.INTERLEAVE_UNDER, MixStrategy.INTERLEAVE_OVER


def mixed(mixing: Mixing, *data_sets: str) -> str:
    def reader(rows: str) -> Callable[[], str]:
        return lambda: rows

    return "".join(mix([reader(rows) for rows in data_sets], mixing))


@pytest.mark.parametrize(
    ("strategy", "data_sets", "wanted"),
    [
        (MixStrategy.CONCAT, ("abc", "12345"), "abc12345"),
        (UNDER, ("abc", "12345"), "a1b2c3"),
        (OVER, ("abc", "12345"), "a1b2c3a4b5"),
        (UNDER, ("abc", "1", "xy"), "a1x"),
        (OVER, ("ab", "", "1"), "a1b1"),
        (OVER, ("",), ""),
    ],
)
def test_in_turn(strategy: MixStrategy, data_sets: tuple[str, ...], wanted: str) -> None:
    assert mixed(Mixing(strategy), *data_sets) == wanted


def test_by_probability() -> None:
    many, few = "a" * 4000, "1" * 4000
    drawn = Counter(mixed(Mixing(UNDER, [0.75, 0.25], 1), many, few))
    assert drawn["a"] == 4000, "it ends when one is used up"
    assert 0.22 < drawn["1"] / drawn.total() < 0.28
    over = Counter(mixed(Mixing(OVER, [0.75, 0.25], 1), many, few))
    assert over["1"] == 4000
    assert over["a"] > 8000
    assert mixed(Mixing(UNDER, [0.5, 0.5], 1), "abc", "123") == mixed(
        Mixing(UNDER, [0.5, 0.5], 1), "abc", "123"
    )
    ways = {mixed(Mixing(UNDER, [0.5, 0.5], seed), "abcdef", "123456") for seed in range(8)}
    assert len(ways) > 1


@pytest.mark.parametrize(
    ("mixing", "said"),
    [
        (Mixing(UNDER, [0.5]), "2 values"),
        (Mixing(UNDER, [0.0, 1.0]), "more than 0"),
        (Mixing(UNDER, [2.0, 1.0]), "at most 1"),
        (Mixing(probabilities=[0.5, 0.5]), "is for mix_strategy"),
    ],
)
def test_probabilities_that_mean_nothing(mixing: Mixing, said: str) -> None:
    assert said in (mixing.problem(2) or "")
    assert Mixing(UNDER, [0.4, 0.4]).problem(2) is None
