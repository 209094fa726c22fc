"""What `tuneyard check` says of the models themselves, starting no engine: each engine's
environment looks at its model's tokenizer and at the adapters' files."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event

import msgspec

from server.config import Config, ModelEntry
from server.environments.locate import EnvironmentMissingError, engine_python
from server.hubs.download import Fetch
from server.hubs.model import HubError
from server.hubs.places import hub_model
from server.supervisor.engine_spec import ServedModel, engine_spec, write_spec

_TIMEOUT_S = 300.0
"""For reading the headers of large models' files from a slow disk."""


@dataclass(frozen=True, slots=True)
class Remark:
    text: str
    is_fault: bool
    """Something that is configured cannot be served."""


class _Findings(msgspec.Struct):
    """What the engine's process prints (`workers.engine.preflight`)."""

    problem: str | None = None
    template_difference: str | None = None
    adapters: dict[str, str] = {}


Directories = Callable[[ModelEntry], Path | None]


class ModelFiles:
    """The entries' directories on this host; of a model from a hub, at least its config and its
    tokenizer are fetched."""

    def __init__(self) -> None:
        self.remarks: list[Remark] = []
        self._found: dict[str, Path | None] = {}

    def directory(self, entry: ModelEntry) -> Path | None:
        if entry.id not in self._found:
            self._found[entry.id] = self._find(entry)
        return self._found[entry.id]

    def _find(self, entry: ModelEntry) -> Path | None:
        model = hub_model(entry)
        if model is None:
            return Path(entry.path)
        try:
            return Fetch(replace(model, has_weights=False), _unreported, Event()).run()
        except (HubError, OSError) as error:
            self.remarks.append(Remark(f"{entry.id}: not looked at: {error}", is_fault=False))
            return None


def _unreported(_done_bytes: int, _total_bytes: int) -> None:
    pass


def look_at_models(config: Config, directory: Directories) -> Iterator[Remark]:
    for entry in config.models:
        if entry.template is None and not entry.adapters:
            continue
        path = directory(entry)
        if path is not None:
            yield from _look(entry, path, config)


def _look(entry: ModelEntry, path: Path, config: Config) -> Iterator[Remark]:
    served = ServedModel(entry.id, str(path), entry, config.templates)
    adapters = [("--adapter", adapter.id, adapter.path) for adapter in entry.adapters]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "spec.json"
        write_spec(file, engine_spec(served, "unix:/not-listening", None))
        try:
            python = engine_python(entry.engine.value, entry.python)
            done = subprocess.run(
                [
                    python,
                    "-m",
                    "workers.engine",
                    "--spec",
                    str(file),
                    "--check",
                    *sum(adapters, ()),
                ],
                capture_output=True,
                timeout=_TIMEOUT_S,
                check=True,
            )
            found = msgspec.json.decode(done.stdout.splitlines()[-1], type=_Findings)
        except subprocess.CalledProcessError as error:
            said = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
            yield Remark(f"{entry.id}: not looked at: {' '.join(said)}", is_fault=False)
            return
        except (EnvironmentMissingError, OSError, subprocess.TimeoutExpired, IndexError) as error:
            yield Remark(f"{entry.id}: not looked at: {error}", is_fault=False)
            return
    if found.problem is not None:
        yield Remark(f"{entry.id}: {found.problem}", is_fault=True)
    if found.template_difference is not None:
        yield Remark(f"{entry.id}: {found.template_difference}", is_fault=False)
    for name, reason in found.adapters.items():
        yield Remark(f"{entry.id}: adapters: {name}: {reason}", is_fault=True)
