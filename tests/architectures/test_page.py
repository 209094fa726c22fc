"""The page of families as a whole."""

from __future__ import annotations

from tests.architectures.families import FAMILIES
from tests.architectures.results import read_page


def test_every_family_has_a_row_and_none_fails() -> None:
    rows = read_page()
    assert sorted(rows) == FAMILIES
    kinds = {row.base.partition(":")[0] for row in rows.values()}
    assert kinds == {"batched", "compatibility", "refused"}
