"""The official package's surface against the real service, and `docs/sdk.md`, its table.

    WRITE_SDK_PAGE=1 python -m pytest tests/clients/test_sdk.py     (writes the page)

A method without a row here fails: it belongs into `sdk_calls.CALLS` when it works.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.clients.sdk_calls import CALLS, NOT_OURS, OF_CLIENT, World
from tests.clients.sdk_page import Row, page
from tests.clients.sdk_surface import methods
from tests.clients.sdk_trial import Trial
from tests.e2e.conftest import Server
from tests.gateway.conftest import DEADLINE_S

PAGE = Path(__file__).parents[2] / "docs" / "sdk.md"
METHODS = methods()
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
_rows: dict[str, Row] = {}


@pytest.fixture(scope="module")
def trial(server: Server, folder: Path) -> Iterator[Trial]:
    command = [sys.executable, "-m", "server.cli", "keys", "create", "sdk", "--admin"]
    made = subprocess.run(
        [*command, "-c", str(folder / "tuneyard.yaml")],
        env={**os.environ, "DATA": str(folder / "data")},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        timeout=DEADLINE_S,
    )
    settings: dict[str, Any] = {
        "base_url": server.base_url,
        "api_key": server.api_key,
        "admin_api_key": made.stdout.split()[-1],
        "max_retries": 0,
        "timeout": DEADLINE_S,
    }
    with (
        openai.OpenAI(**settings, _strict_response_validation=True) as strict,
        openai.OpenAI(**settings) as lenient,
    ):
        world = World(lenient)
        yield Trial(strict, world)
        world.end()


@pytest.mark.parametrize("path", sorted(CALLS))
async def test_a_method_works_in_every_way_that_it_has(trial: Trial, path: str) -> None:
    _rows[path] = Row(path, ways=await trial.works(path))


@pytest.mark.parametrize("path", sorted(set(METHODS) - set(CALLS)))
def test_a_method_that_does_not_work_is_refused_by_name(trial: Trial, path: str) -> None:
    reason = OF_CLIENT.get(path)
    if reason is None:
        reason = next((text for start, text in NOT_OURS.items() if path.startswith(start)), None)
    if reason is None:
        reason = trial.refusal(path, METHODS[path])
    assert reason is not None, f"{path}: if it works, it needs a row in `sdk_calls.CALLS`"
    _rows[path] = Row(path, refusal=reason)


def test_every_row_is_of_a_method() -> None:
    assert set(CALLS) <= set(METHODS)
    for start in [*NOT_OURS, *OF_CLIENT]:
        assert any(path.startswith(start) for path in METHODS), start


def test_the_page_is_true() -> None:
    if set(_rows) != set(METHODS):
        pytest.skip("not all methods were tried")
    written = page(_rows.values(), openai.__version__)
    if os.environ.get("WRITE_SDK_PAGE"):
        PAGE.write_text(written)
    assert PAGE.read_text() == written, "run with WRITE_SDK_PAGE=1"
