"""The table engine x case, made from the tests that ran."""

from __future__ import annotations

from pathlib import Path

import pytest

FILE = Path(__file__).with_name("RESULTS.md")
_HEAD = """# Conformance of the engines

Written by `python -m pytest tests/conformance`. One suite, run on every engine over its worker's
socket with the same random Qwen3 model in float32 and the same LoRA adapters; answers are compared
with those of Hugging Face's model class, adapters merged. `absent` is a capability the engine
declares that it lacks: the request is refused with an error that names the parameter, and the suite
checks that.
"""


class Results:
    def __init__(self) -> None:
        self._cases: dict[str, dict[str, str]] = {}
        self._engines: dict[str, str] = {}

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
            absent = "declared absent" in str(report.longrepr)
            row[engine] = "absent" if absent else "not run"
        elif report.when == "call":
            row.setdefault(engine, "yes")

    def write(self) -> None:
        """Only a whole run is worth recording: every engine there, every case run."""
        names = list(self._engines)
        if len(names) < 3 or any(row.keys() != set(names) for row in self._cases.values()):
            return
        lines = [
            _HEAD,
            f"| case | {' | '.join(self._engines[n] for n in names)} |",
            f"|---|{'---|' * len(names)}",
        ]
        lines += [
            f"| {case} | {' | '.join(row[n] for n in names)} |" for case, row in self._cases.items()
        ]
        FILE.write_text("\n".join(lines) + "\n")
