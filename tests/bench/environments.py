"""Environments of the peers, apart from ours: `.envs/bench-<name>`, from pinned requirements.

Built when a benchmark first asks for one, and again after its requirements change.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from rich.console import Console

ROOT = Path(__file__).resolve().parents[2]
_MARKER = "requirements.sha256"


@dataclass(frozen=True, slots=True)
class Environment:
    name: str
    version: str
    """As results quote it."""
    without_dependencies: tuple[str, ...] = ()
    """Installed last, without what they say they need."""

    @property
    def folder(self) -> Path:
        return ROOT / ".envs" / f"bench-{self.name}"

    @property
    def variables(self) -> dict[str, str]:
        """What its programs need in their environment; the folder holds stand-ins."""
        return {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(self.requirements.with_suffix(""))}

    @property
    def requirements(self) -> Path:
        return Path(__file__).parent / "environments" / f"{self.name}.txt"

    def program(self, name: str) -> str:
        """The path of one of its programs, `python` among them; builds it if needed."""
        self._ensure()
        return str(self.folder / "bin" / name)

    def _ensure(self) -> None:
        wanted = sha256(self.requirements.read_bytes() + repr(self).encode()).hexdigest()
        marker = self.folder / _MARKER
        if marker.is_file() and marker.read_text() == wanted:
            return
        Console(stderr=True).print(f"Building {self.folder} (some minutes, once) ...")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(self.folder)], check=True)
        pip = [str(self.folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--compile"]
        subprocess.run([*pip, "-r", str(self.requirements)], check=True)
        if self.without_dependencies:
            subprocess.run([*pip, "--no-deps", *self.without_dependencies], check=True)
        marker.write_text(wanted)


TRANSFORMERS = Environment("transformers", "transformers 5.23.0")
LLAMAFACTORY = Environment(
    "llamafactory", "LLaMA-Factory 0.9.5", without_dependencies=("llamafactory==0.9.5",)
)
ROUTER = Environment("router", "vllm-router 0.1.17")
SGLANG_ROUTER = Environment("sglang-router", "sglang-router 0.3.2")
