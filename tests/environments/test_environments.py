"""Engine environments: a missing or broken one names the command that makes it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from server.environments.commands import app
from server.environments.locate import (
    MARKER,
    EnvironmentMissingError,
    Marker,
    check_imports,
    engine_python,
    read_marker,
)
from server.environments.recipes import Device, EngineName, recipe

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """An empty environment that is marked as SGLang's for CUDA."""
    folder = tmp_path / "sglang"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    version = recipe(EngineName.SGLANG, Device.CUDA).version
    marker = Marker(engine=EngineName.SGLANG, device=Device.CUDA, version=version)
    (folder / MARKER).write_text(marker.model_dump_json())
    return folder


@pytest.mark.parametrize("engine", list(EngineName))
@pytest.mark.parametrize("device", list(Device))
def test_every_recipe_pins_what_it_installs(engine: EngineName, device: Device) -> None:
    chosen = recipe(engine, device)
    lines = chosen.constraints.read_text().splitlines()
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    for requirement in (*chosen.install, *chosen.without_dependencies, *chosen.remove):
        name = requirement.replace(">", "=").replace("<", "=").partition("=")[0]
        assert name.lower().replace("_", "-") in pinned, requirement
    assert chosen.version in " ".join((*chosen.install, *chosen.without_dependencies))


def test_an_engine_without_its_own_environment_runs_under_ours() -> None:
    assert engine_python("hf", None) == sys.executable
    assert engine_python("hf", "/other/python") == "/other/python"


def test_a_missing_environment_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentMissingError, match="tuneyard env create vllm"):
        engine_python("vllm", None, tmp_path)
    with pytest.raises(EnvironmentMissingError, match="no interpreter at /nowhere/python"):
        engine_python("vllm", "/nowhere/python", tmp_path)


def test_a_whole_environment_is_found(environment: Path) -> None:
    python = engine_python("sglang", None, environment.parent)
    assert Path(python) == environment / "bin" / "python"


def test_sglang_without_its_kernels_does_not_serve(environment: Path) -> None:
    version = recipe(EngineName.SGLANG, Device.CPU).version
    marker = Marker(engine=EngineName.SGLANG, device=Device.CPU, version=version)
    (environment / MARKER).write_text(marker.model_dump_json())
    with pytest.raises(EnvironmentMissingError, match=r"no CPU build\. Use engine: hf or vllm"):
        engine_python("sglang", None, environment.parent)


def test_an_environment_that_broke_off_is_not_used(environment: Path) -> None:
    (environment / MARKER).unlink()
    with pytest.raises(EnvironmentMissingError, match=r"not finished.*tuneyard env create sglang"):
        engine_python("sglang", None, environment.parent)


def test_an_environment_of_another_version_is_not_used(environment: Path) -> None:
    old = Marker(engine=EngineName.SGLANG, device=Device.CPU, version="0.0.1")
    (environment / MARKER).write_text(old.model_dump_json())
    with pytest.raises(EnvironmentMissingError, match=r"holds sglang 0\.0\.1"):
        read_marker(environment, "sglang")


def test_an_environment_that_does_not_import_is_broken(environment: Path) -> None:
    with pytest.raises(EnvironmentMissingError, match=r"broken: .*No module named 'sglang'"):
        check_imports(environment, "sglang", ("sglang",))


def test_the_command_says_what_is_wrong_and_fails(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["check", "vllm", "--path", str(tmp_path / "vllm")])
    assert result.exit_code == 1
    assert "tuneyard env create vllm" in " ".join(result.output.split())


@pytest.mark.engine_env
@pytest.mark.slow
@pytest.mark.parametrize("engine", list(EngineName))
def test_the_real_environment_runs_our_worker_from_anywhere(
    engine: EngineName, tmp_path: Path
) -> None:
    told = os.environ.get(f"TUNEYARD_{engine.upper()}_PYTHON")
    python = Path(told) if told else ROOT / ".envs" / engine / "bin" / "python"
    if not python.is_file():
        pytest.skip(f"no environment for {engine}: `tuneyard env create {engine}`")
    code = f"import workers.engine.{engine}.backend, sys; print('fastapi' in sys.modules)"
    result = subprocess.run(
        [str(python), "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "False"
