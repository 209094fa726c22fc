"""`tuneyard env`: make and check engine environments."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from server.environments.build import BuildError, build
from server.environments.locate import (
    DEFAULT_FOLDER,
    EnvironmentMissingError,
    check_imports,
    read_marker,
)
from server.environments.recipes import Device, EngineName, present_device, recipe

app = typer.Typer(
    name="env", help="Environments for engines that need their own.", no_args_is_help=True
)
_out = Console()
_err = Console(stderr=True)

_Engine = Annotated[EngineName, typer.Argument(help="The engine.")]
_PathOption = Annotated[
    Path | None, typer.Option("--path", help="Where it is; `.envs/<engine>` unless given.")
]


@app.command()
def create(
    engine: _Engine,
    path: _PathOption = None,
    device: Annotated[
        Device | None, typer.Option(help="What it serves on; CUDA if this machine has it.")
    ] = None,
    python: Annotated[
        str, typer.Option(help="Interpreter to build it with (3.11 or 3.12).")
    ] = sys.executable,
    extra_index_url: Annotated[
        list[str] | None,
        typer.Option(help="A further package index, such as PyTorch's with CPU-only wheels."),
    ] = None,
) -> None:
    """Build an engine's environment from pinned versions. Takes minutes."""
    chosen = recipe(engine, device or present_device())
    environment = path or DEFAULT_FOLDER / engine
    arguments = [part for url in extra_index_url or [] for part in ("--extra-index-url", url)]
    try:
        build(chosen, environment, python=python, pip_arguments=arguments, report=_out.print)
    except (BuildError, EnvironmentMissingError) as error:
        _err.print(f"[red]{error}[/red]", soft_wrap=True)
        raise typer.Exit(1) from error
    _out.print(f"[green]{engine} {chosen.version} ({chosen.device}) is ready at {environment}.")
    if chosen.note:
        _out.print(chosen.note)


@app.command()
def check(engine: _Engine, path: _PathOption = None) -> None:
    """Import an engine's environment, as a worker would."""
    environment = path or DEFAULT_FOLDER / engine
    try:
        marker = read_marker(environment, engine)
        check_imports(environment, engine, recipe(marker.engine, marker.device).check)
    except EnvironmentMissingError as error:
        _err.print(f"[red]{error}[/red]", soft_wrap=True)
        raise typer.Exit(1) from error
    _out.print(f"{engine} {marker.version} ({marker.device}) at {environment} works.")
