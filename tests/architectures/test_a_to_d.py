"""Families whose names begin with a to d."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.architectures.examining import check_row, families_from

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("family", families_from("a", "d"))
def test_a_family_does_what_its_row_says(family: str, tmp_path: Path) -> None:
    check_row(family, tmp_path)
