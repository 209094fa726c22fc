"""Finds the interpreter an engine's worker runs under, and says how to get one that is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from pydantic import BaseModel, ValidationError

from server.environments.recipes import Device, EngineName, recipe

DEFAULT_FOLDER = Path(".envs")
MARKER = "tuneyard-environment.json"
_CHECK_TIMEOUT_S = 300.0


class EnvironmentMissingError(Exception):
    """No usable environment; the message is for the operator and names the command."""


class Marker(BaseModel):
    """Written into an environment once it is whole."""

    engine: EngineName
    device: Device
    version: str


def engine_python(engine: str, configured: str | None, folder: Path = DEFAULT_FOLDER) -> str:
    """The interpreter for a model entry: the configured one, else that of the engine's own
    environment, else (for engines without one) ours. Raises EnvironmentMissingError."""
    if engine not in set(EngineName):
        return configured or sys.executable
    if configured is not None:
        if not Path(configured).is_file():
            raise _missing(engine, f"there is no interpreter at {configured}")
        return configured
    environment = folder / engine
    marker = read_marker(environment, engine)
    if marker.engine is EngineName.SGLANG and marker.device is Device.CPU:
        raise EnvironmentMissingError(
            f"The environment at {environment} is for tests: SGLang's compiled kernels have no CPU "
            "build. Use engine: hf or vllm on a machine without CUDA."
        )
    return str((environment / "bin" / "python").absolute())


def read_marker(environment: Path, engine: str) -> Marker:
    """Raises EnvironmentMissingError."""
    if not (environment / "bin" / "python").is_file():
        raise _missing(engine, f"there is none at {environment}")
    try:
        marker = Marker.model_validate(json.loads((environment / MARKER).read_bytes()))
    except (OSError, ValueError, ValidationError) as error:
        raise _missing(engine, f"the one at {environment} was not finished") from error
    wanted = recipe(marker.engine, marker.device).version
    if marker.engine != engine or marker.version != wanted:
        found = f"{marker.engine} {marker.version}"
        raise _missing(engine, f"the one at {environment} holds {found}, not {engine} {wanted}")
    return marker


def check_imports(environment: Path, engine: str, modules: tuple[str, ...]) -> None:
    """Imports each module in the environment. Raises EnvironmentMissingError."""
    python = environment / "bin" / "python"
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    try:
        result = subprocess.run(
            [str(python), "-c", code, *modules],
            capture_output=True,
            text=True,
            timeout=_CHECK_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _missing(engine, f"the one at {environment} does not run: {error}") from error
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise _missing(engine, f"the one at {environment} is broken: {last}")


def _missing(engine: str, why: str) -> EnvironmentMissingError:
    return EnvironmentMissingError(
        f"Engine {engine} needs an environment of its own, and {why}. "
        f"Make it with `tuneyard env create {engine}`."
    )
