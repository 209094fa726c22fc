"""The table engine x case, made from the tests that ran."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conformance.engines import KINDS

FILE = Path(__file__).with_name("RESULTS.md")
_HEAD = """# Conformance of the engines

Written by a whole run of `python -m pytest tests/conformance`. One suite, run on every engine over
its worker's socket with the bundled model in float32 and the same LoRA adapters; answers are
compared with those of Hugging Face's model class, adapters merged. `absent` is a capability the
engine declares that it lacks: the request is refused with an error that names the parameter, and
the suite checks that. `-` is a case about a model, which the scripted engine has not.
"""
_ABSENT = {"declared absent": "absent", "it has no model": "-"}
"""How a test says why it does not apply, and how the table does."""
_FOLDER = FILE.parent


class Results:
    def __init__(self) -> None:
        self._cases: dict[str, dict[str, str]] = {}
        self._engines: dict[str, str] = {}
        self._is_whole = True

    def miss(self, items: Sequence[pytest.Item]) -> None:
        """These are left out of the run."""
        if any(item.path.parent == _FOLDER for item in items):
            self._is_whole = False

    def name_engine(self, name: str, label: str, version: str) -> None:
        self._engines[name] = f"{label} {version.partition('/')[2]}"

    def add(self, item: pytest.Item, report: pytest.TestReport) -> None:
        spec = getattr(item, "callspec", None)
        if spec is None or "engine" not in spec.params or Path(item.path).parent != FILE.parent:
            return
        case = getattr(item, "originalname", item.name).removeprefix("test_").replace("_", " ")
        others = spec.id.removeprefix(spec.params["engine"]).strip("-")
        if others:
            case += f" ({others})"
        row = self._cases.setdefault(case, {})
        engine = spec.params["engine"]
        if report.failed:
            row[engine] = "**FAILS**"
        elif report.skipped:
            told = str(report.longrepr)
            row[engine] = next((v for k, v in _ABSENT.items() if k in told), "not run")
        elif report.when == "call":
            row.setdefault(engine, "yes")

    def write(self, session: pytest.Session) -> None:
        """Only a whole run is worth recording: every case run or declared absent on every engine,
        nothing left out by file, by name or by an early end."""
        if not self._is_whole or not self._covers_the_suite(session):
            return
        names = list(KINDS)
        lines = [
            _HEAD,
            f"| case | {' | '.join(self._engines[n] for n in names)} |",
            f"|---|{'---|' * len(names)}",
        ]
        lines += [
            f"| {case} | {' | '.join(row[n] for n in names)} |" for case, row in self._cases.items()
        ]
        FILE.write_text("\n".join(lines) + "\n")

    def _covers_the_suite(self, session: pytest.Session) -> bool:
        root = session.config.invocation_params.dir
        asked = [root / argument for argument in session.config.args]
        if not any(_FOLDER.is_relative_to(path) for path in asked if "::" not in path.name):
            return False
        if session.shouldstop or session.shouldfail or set(self._engines) != set(KINDS):
            return False
        rows = self._cases.values()
        return all(row.keys() == set(KINDS) and "not run" not in row.values() for row in rows)
