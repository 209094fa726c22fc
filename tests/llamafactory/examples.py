"""LLaMA-Factory's own example files, and the table of which are taken.

python -m tests.llamafactory.examples           # rewrites RESULTS.md
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from server.config.factory_file import is_model_file, model_settings
from server.config.service import Config
from server.llamafactory.translation import State, translate

_HERE = Path(__file__).parent
RESULTS = _HERE / "RESULTS.md"

_HEAD = """# LLaMA-Factory's example files

The settings of its 66 classic examples (`examples.yaml`), translated as they are: whether the
server has the model, and the data set, is not asked here. Written by `python -m
tests.llamafactory.examples`.

| file | is | honoured | dropped | refused |
|---|---|---|---|---|
"""


@cache
def read_examples() -> dict[str, dict[str, Any]]:
    told = yaml.safe_load((_HERE / "examples.yaml").read_text(encoding="utf-8"))
    return {
        name: {
            key: value
            for key, value in {**told["common"][file["like"]], **file.get("but", {})}.items()
            if key not in file.get("without", ())
        }
        for name, file in told["files"].items()
    }


def results() -> str:
    rows = [_row(name, config) for name, config in read_examples().items()]
    jobs = sum("| a job |" in row for row in rows)
    models = sum("| a model |" in row for row in rows)
    total = (
        f"\n{jobs} are jobs, {models} are models to serve, {len(rows) - jobs - models} neither.\n"
    )
    return _HEAD + "".join(rows) + total


def _row(name: str, config: dict[str, Any]) -> str:
    if is_model_file(config):
        Config.model_validate(model_settings(config))
        return f"| {name} | a model | {len(config)} | 0 | |\n"
    verdicts = translate(config).verdicts.values()
    counts = [sum(v.state is state for v in verdicts) for state in (State.HONOURED, State.DROPPED)]
    refused = ", ".join(f"`{v.key}`" for v in verdicts if v.state is State.REFUSED)
    told = "refused" if refused else "a job"
    return f"| {name} | {told} | {counts[0]} | {counts[1]} | {refused} |\n"


if __name__ == "__main__":
    RESULTS.write_text(results(), encoding="utf-8")
