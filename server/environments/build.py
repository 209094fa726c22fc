"""Builds an engine's environment: a venv, pinned packages, and links to our three worker packages.

Built in place, and marked as whole only at the end: one that broke off is seen as such and is made
anew by the same command.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from server.environments.locate import MARKER, Marker, check_imports
from server.environments.recipes import Recipe

OUR_PACKAGES = ("workers", "templates")
"""What of Tuneyard an engine's environment holds. `workers.trainer` comes along and is not used."""
_ROOT = Path(__file__).resolve().parents[2]

Report = Callable[[str], None]


class BuildError(Exception):
    """A step failed; its own output has told more."""


def build(
    recipe: Recipe,
    environment: Path,
    *,
    python: str,
    pip_arguments: Sequence[str] = (),
    report: Report,
) -> None:
    """Raises BuildError, or EnvironmentMissingError if what was built does not import."""
    (environment / MARKER).unlink(missing_ok=True)
    report(f"Creating {environment}")
    _run([python, "-m", "venv", "--clear", str(environment)])
    pip = [str(environment / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    install = [*pip, "install", "--compile", "-c", str(recipe.constraints), *pip_arguments]
    report(f"Installing {recipe.engine} {recipe.version} for {recipe.device}")
    _run([*pip, "install", "--quiet", "--upgrade", "pip>=25"])
    _run([*install, *recipe.install])
    if recipe.without_dependencies:
        _run([*install, "--no-deps", *recipe.without_dependencies])
    if recipe.remove:
        _run([*pip, "uninstall", "--yes", "--quiet", *recipe.remove])
    _link_our_packages(environment)
    report("Checking that it imports")
    check_imports(environment, recipe.engine, recipe.check)
    marker = Marker(engine=recipe.engine, device=recipe.device, version=recipe.version)
    (environment / MARKER).write_text(marker.model_dump_json())


def _link_our_packages(environment: Path) -> None:
    """Links, not copies: a worker always runs the code of the service that starts it."""
    (site,) = (environment / "lib").glob("python*/site-packages")
    for name in OUR_PACKAGES:
        link = site / name
        link.unlink(missing_ok=True)
        link.symlink_to(_ROOT / name, target_is_directory=True)


def _run(command: Sequence[str]) -> None:
    try:
        subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise BuildError(f"`{' '.join(command[:5])} ...` failed: {error}") from error
