"""What commands share: the settings file's option, and how a command refuses."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from server.config import Config, ConfigError, load_config

ConfigPath = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Settings file. Default: tuneyard.yaml, if there is one."),
]
_DEFAULT_CONFIG = Path("tuneyard.yaml")
_BAD_CONFIG_STATUS = 2


def load(path: Path | None) -> Config:
    """The settings, with the environment's over the file's. Refuses what cannot be used."""
    if path is None and _DEFAULT_CONFIG.is_file():
        path = _DEFAULT_CONFIG
    try:
        return load_config(path)
    except ConfigError as error:
        refuse(str(error))


def refuse(reason: str, status: int = _BAD_CONFIG_STATUS) -> NoReturn:
    """Says why in red on standard error, and ends the process."""
    Console(stderr=True).print(reason, style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(status)
