"""What all tests share: their environment, how they are spread over processes, what a flake costs.

The settings that `tuneyard serve` takes from the environment are for the tests to choose.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from xdist.scheduler import LoadFileScheduling

MAX_RERUNS = 3
"""A run in which more tests than this passed only at their second try has failed."""

for _name in ("HOST", "PORT", "DATA", "API_KEY"):
    os.environ.pop(_name, None)


class _FilesAndSuites(LoadFileScheduling):
    """The tests of a file run in one process, and so do those of the conformance suite, which
    share engines."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        suite = "tests/conformance/"
        return suite if file.startswith(suite) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadFileScheduling:
    return _FilesAndSuites(config, log)  # pyright: ignore[reportArgumentType]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    reruns = [] if reporter is None else reporter.stats.get("rerun", [])
    if len(reruns) > MAX_RERUNS and session.exitstatus == pytest.ExitCode.OK:
        reporter.write_line(f"\n{len(reruns)} tests were run again; {MAX_RERUNS} may be.", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of a real architecture, small enough to train in seconds."""
    from tests.trainer.conftest import build_model, build_tokenizer

    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = build_tokenizer()
    build_model(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
